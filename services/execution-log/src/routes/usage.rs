use actix_web::{HttpResponse, get, web::Data};
use flowmate_common::{Failure, Timestamp, auth::ExecutionsRead};
use flowmate_storage::executions::{GroupBy, UsageRow};
use flowmate_web::{Allowed, ApiError, Errors, Params};
use serde_json::{Value, json};

use super::executions::fault;
use crate::State;

/// Counts step runs by user, flow or component, over whole UTC days. Control components do not count.
#[utoipa::path(tag = "Executions", operation_id = "getUsage", security(("bearer" = [])), params(
    ("start" = Option<String>, Query, description = "First day, YYYY-MM-DD; one month ago where nothing is said"),
    ("end" = Option<String>, Query, description = "Last day, YYYY-MM-DD; today where nothing is said"),
    ("groupby" = Option<String>, Query, description = "user, flow or component; user where nothing is said")), responses(
    (status = 200, description = "The counts", body = Object),
    (status = 400, description = "A parameter with an invalid value", body = Errors),
    (status = 401, description = "Not logged in", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors)))]
#[get("/icenter/executions")]
pub(crate) async fn usage(
    state: Data<State>,
    caller: Allowed<ExecutionsRead>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    let by = match params.filled("groupby").map(str::trim) {
        None | Some("user") => GroupBy::User,
        Some("flow") => GroupBy::Flow,
        Some("component") => GroupBy::Component,
        Some(_) => return Err(Failure::invalid("Invalid groupby parameter").into()),
    };
    let now = state.context.clock.now();
    let first = day(&params, "start")?.unwrap_or_else(|| month_before(now));
    let last = day(&params, "end")?.unwrap_or_else(|| now.day());
    if first > last {
        return Err(Failure::invalid("Invalid start parameter: it is after end").into());
    }
    let store = state.context.storage.executions();
    let rows = store
        .usage(&caller.visibility(), by, &first, &last)
        .await
        .map_err(fault)?;
    let mut data = Vec::with_capacity(rows.len());
    for row in rows {
        let user = if by == GroupBy::User {
            Some(row.key.clone())
        } else {
            row.user.as_ref().map(ToString::to_string)
        };
        let username = match user {
            Some(user) if by != GroupBy::Component => state.users.name(&user).await.map_err(fault)?,
            _ => None,
        };
        data.push(element(by, row, username));
    }
    Ok(HttpResponse::Ok().json(json!({ "data": data })))
}

/// The shapes of contract 3.7; what is not known is left out.
fn element(by: GroupBy, row: UsageRow, username: Option<String>) -> Value {
    let UsageRow {
        key,
        user,
        tenant,
        flows,
        executions,
    } = row;
    let mut element = match by {
        GroupBy::User => {
            json!({ "_id": key, "user": key, "tenant": tenant, "allFlows": flows, "executions": executions,
                "username": username })
        }
        GroupBy::Flow => {
            json!({ "_id": key, "flow": key, "user": user, "tenant": tenant, "executions": executions,
                "username": username })
        }
        GroupBy::Component => {
            json!({ "_id": key, "component": key, "tenant": tenant, "allFlows": flows, "executions": executions })
        }
    };
    if let Some(map) = element.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    element
}

fn day(params: &Params, name: &str) -> Result<Option<String>, Failure> {
    let Some(text) = params.filled(name) else {
        return Ok(None);
    };
    let valid = text.len() == 10 && format!("{text}T00:00:00.000Z").parse::<Timestamp>().is_ok();
    if valid {
        Ok(Some(text.to_owned()))
    } else {
        Err(Failure::invalid(format!("Invalid {name} parameter")))
    }
}

/// The same day of the month before, or that month's last day.
fn month_before(now: Timestamp) -> String {
    let today = now.day();
    let number = |from: usize, to: usize| {
        today
            .get(from..to)
            .and_then(|text| text.parse::<u32>().ok())
            .unwrap_or(1)
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (year, month) = if month == 1 {
        (year - 1, 12)
    } else {
        (year, month - 1)
    };
    let exists = |day: &u32| {
        format!("{year:04}-{month:02}-{day:02}T00:00:00.000Z")
            .parse::<Timestamp>()
            .is_ok()
    };
    let day = (1..=day).rev().find(exists).unwrap_or(1);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_before_exists() {
        let before = |text: &str| month_before(text.parse().unwrap());
        assert_eq!(before("2026-11-23T10:00:00Z"), "2026-10-23");
        assert_eq!(before("2026-03-31T10:00:00Z"), "2026-02-28");
        assert_eq!(before("2026-01-15T10:00:00Z"), "2025-12-15");
    }
}
