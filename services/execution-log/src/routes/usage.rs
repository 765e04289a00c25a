use std::collections::{BTreeSet, HashMap, HashSet};

use actix_web::{
    get,
    web::{Data, Json},
};
use flowmate_common::{
    Failure, Timestamp,
    auth::ExecutionsRead,
    ids::{FlowId, TenantId, UserId},
};
use flowmate_runtime::{
    clients::{ActiveFlow, Flows},
    owning,
};
use flowmate_storage::executions::{GroupBy, UsageRow};
use flowmate_web::{Allowed, ApiError, Errors, Params};
use serde::Serialize;
use utoipa::ToSchema;

use super::within;
use crate::State;

/// Counts of a time.
#[derive(Serialize, ToSchema)]
pub(crate) struct Usage {
    /// One for each user, flow or component that did something.
    data: Vec<UsageCount>,
}

/// How many steps ran for one user, flow or component.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UsageCount {
    /// The user, flow or component.
    #[serde(rename = "_id")]
    #[schema(example = "636d0762bd257a7eb2373d6c")]
    id: String,
    /// The user; with `groupby=flow` the flow's owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "636d0762bd257a7eb2373d6c")]
    user: Option<String>,
    /// With `groupby=flow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "6732345d01bea099edcb9863")]
    flow: Option<String>,
    /// With `groupby=component`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "666c6f776d61746500000001")]
    component: Option<String>,
    /// Where it is one and the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tenant: Option<TenantId>,
    /// The flows that are active now: the user's, or those that ran the component; with `groupby=user` and `groupby=component`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    all_flows: Option<Vec<FlowId>>,
    /// How many steps ran.
    #[schema(example = 304)]
    executions: u64,
    /// The user's external id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "ada@example.com")]
    username: Option<String>,
}

/// Counts step runs by user, flow or component, over whole UTC days. Control components do not count.
#[utoipa::path(tag = "Executions", operation_id = "getUsage", security(("bearer" = [])), params(
    ("start" = Option<String>, Query, description = "First day, YYYY-MM-DD; one month ago where nothing is said"),
    ("end" = Option<String>, Query, description = "Last day, YYYY-MM-DD; today where nothing is said"),
    ("groupby" = Option<String>, Query, pattern = "^(user|flow|component)$", description = "user, flow or component; user where nothing is said")), responses(
    (status = 200, description = "The counts", body = Usage),
    (status = 400, description = "Invalid start parameter", body = Errors)))]
#[get("/icenter/executions")]
pub(crate) async fn usage(
    state: Data<State>,
    caller: Allowed<ExecutionsRead>,
    params: Params,
) -> Result<Json<Usage>, ApiError> {
    params.only(&["start", "end", "groupby"])?;
    let by = match params.get("groupby").map(str::trim) {
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
    let (see, within) = (owning::sees(&caller), within(&caller));
    let rows = store.usage(&see, within.as_ref(), by, &first, &last).await?;
    let active = Active::of(active(&*state.flows, by, &rows).await?);
    let mut data = Vec::with_capacity(rows.len());
    for row in rows {
        let user = if by == GroupBy::User {
            Some(row.key.clone())
        } else {
            row.user.as_ref().map(ToString::to_string)
        };
        let username = match user {
            Some(user) if by != GroupBy::Component => state.users.name(&user).await?,
            _ => None,
        };
        let flows = active.of_row(by, &row);
        data.push(element(by, row, flows, username));
    }
    Ok(Json(Usage { data }))
}

/// Asked about in one call.
const AT_ONCE: usize = 500;

/// What is active now of what the rows are about.
async fn active(flows: &dyn Flows, by: GroupBy, rows: &[UsageRow]) -> Result<Vec<ActiveFlow>, Failure> {
    let mut active = Vec::new();
    match by {
        GroupBy::Flow => {}
        GroupBy::User => {
            let users: Vec<UserId> = rows.iter().map(|row| row.key.as_str().into()).collect();
            for users in users.chunks(AT_ONCE) {
                active.extend(flows.active(users.to_vec(), Vec::new()).await?);
            }
        }
        GroupBy::Component => {
            let ran: BTreeSet<FlowId> = rows.iter().flat_map(|row| row.flows.iter().cloned()).collect();
            let ran: Vec<FlowId> = ran.into_iter().collect();
            for ran in ran.chunks(AT_ONCE) {
                active.extend(flows.active(Vec::new(), ran.to_vec()).await?);
            }
        }
    }
    Ok(active)
}

/// The active flows, to be found by row.
struct Active {
    of_users: HashMap<String, Vec<FlowId>>,
    all: HashSet<FlowId>,
}

impl Active {
    fn of(flows: Vec<ActiveFlow>) -> Self {
        let (mut of_users, mut all) = (HashMap::<_, Vec<_>>::new(), HashSet::new());
        for flow in flows {
            if let Some(user) = &flow.user {
                of_users
                    .entry(user.to_string())
                    .or_default()
                    .push(flow.id.clone());
            }
            all.insert(flow.id);
        }
        Self { of_users, all }
    }

    fn of_row(&self, by: GroupBy, row: &UsageRow) -> Vec<FlowId> {
        match by {
            GroupBy::User => self.of_users.get(&row.key).cloned().unwrap_or_default(),
            GroupBy::Flow | GroupBy::Component => {
                let ran = row.flows.iter();
                ran.filter(|flow| self.all.contains(*flow)).cloned().collect()
            }
        }
    }
}

/// The shapes of contract 3.7; what is not known is left out.
fn element(by: GroupBy, row: UsageRow, flows: Vec<FlowId>, username: Option<String>) -> UsageCount {
    let count = UsageCount {
        id: row.key.clone(),
        user: row.user.map(|user| user.to_string()),
        flow: None,
        component: None,
        tenant: row.tenant,
        all_flows: Some(flows),
        executions: row.executions,
        username,
    };
    let key = Some(row.key);
    match by {
        GroupBy::User => UsageCount { user: key, ..count },
        GroupBy::Flow => UsageCount {
            flow: key,
            all_flows: None,
            ..count
        },
        GroupBy::Component => UsageCount {
            component: key,
            user: None,
            ..count
        },
    }
}

fn day(params: &Params, name: &str) -> Result<Option<String>, Failure> {
    let Some(text) = params.get(name) else {
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
