//! Who sees, changes and gives what is owned: flows, templates, components, executions. Rules without input and output,
//! but for [`vouch`], which asks user-iam about accounts.

use std::collections::HashSet;

use flowmate_common::{
    Failure,
    auth::{Caller, Visibility},
    ids::{TenantId, UserId, canonical_id},
    model::{Owner, OwnerKind, UserChanged},
};
use serde_json::Value;

use crate::clients::Accounts;

/// Owners of one object.
pub const MAX_OWNERS: usize = 100;
/// Bytes of the id of an owner.
const MAX_ID: usize = 320;

/// Whether the caller is an end user: an account that cannot log in and administrates nothing.
pub fn is_end_user(caller: &Caller) -> bool {
    !caller.can_login && !administrates(caller)
}

fn administrates(caller: &Caller) -> bool {
    caller.is_admin() || caller.is_tenant_admin()
}

/// What the caller sees of flows and of what they did, and changes of anything: end users only what names them. A tenant
/// as the owner means its members, never each of its end users.
pub fn sees(caller: &Caller) -> Visibility {
    if is_end_user(caller) {
        Visibility::OwnedBy(vec![caller.user.to_string()])
    } else {
        caller.visibility()
    }
}

/// What the caller sees of what a tenant shares with its end users too: templates and components.
pub fn sees_shared(caller: &Caller) -> Visibility {
    caller.visibility()
}

/// Brings the ids of owners into their one spelling.
pub fn canonical(owners: &mut [Owner]) {
    for owner in owners {
        owner.id = canonical_id(&owner.id).into_owned();
    }
}

/// Users that user-iam said to belong to the caller's tenant.
#[derive(Debug, Default)]
pub struct Vouched(HashSet<String>);

/// Asks about the users among the `given` owners that are new: neither the caller nor `stored`. What is malformed there is
/// left to whoever validates the body.
pub async fn vouch(
    accounts: &dyn Accounts,
    caller: &Caller,
    stored: &[Owner],
    given: Option<&Value>,
) -> Result<Vouched, Failure> {
    let given = given.and_then(Value::as_array);
    let given = given.map(Vec::as_slice).unwrap_or_default();
    if given.len() > MAX_OWNERS {
        return Err(Failure::invalid(format!(
            "There are at most {MAX_OWNERS} owners."
        )));
    }
    let Some(tenant) = caller.tenant.as_ref().filter(|_| !caller.is_admin()) else {
        return Ok(Vouched::default());
    };
    let owners = given
        .iter()
        .filter_map(|owner| serde_json::from_value::<Owner>(owner.clone()).ok());
    let mut owners: Vec<Owner> = owners.collect();
    canonical(&mut owners);
    let is_new = |owner: &Owner| {
        owner.kind == OwnerKind::User && owner.id != caller.user.as_str() && !stored.contains(owner)
    };
    let asked: Vec<UserId> = owners
        .into_iter()
        .filter(is_new)
        .map(|owner| owner.id.into())
        .collect();
    if asked.is_empty() {
        return Ok(Vouched::default());
    }
    let members = accounts.members(tenant, asked).await?;
    Ok(Vouched(members.iter().map(ToString::to_string).collect()))
}

/// The owners of what the caller creates: the caller and the tenant, and whom `given` names. Usage goes to the first user:
/// only who administrates names somebody else for that.
pub fn create(given: Vec<Owner>, caller: &Caller, vouched: &Vouched) -> Result<Vec<Owner>, Failure> {
    check(&given, &[], caller, vouched)?;
    Ok(if administrates(caller) {
        joined([given, caller.owners()])
    } else {
        joined([caller.owners(), given])
    })
}

/// The owners of what was owned by `stored`, when the caller gives `given` instead; the same ones change nothing.
///
/// The caller is among them (contract 2.2), so there is always one. What belongs to a tenant stays with it: only system
/// administrators take it out. Who administrates nothing neither reorders nor takes away from the user whom usage goes to.
pub fn change(
    stored: &[Owner],
    given: Vec<Owner>,
    caller: &Caller,
    vouched: &Vouched,
) -> Result<Vec<Owner>, Failure> {
    check(&given, stored, caller, vouched)?;
    let is_same = given.len() == stored.len() && given.iter().all(|owner| stored.contains(owner));
    if is_same && !administrates(caller) {
        return Ok(stored.to_vec());
    }
    if is_same && !stored.is_empty() {
        return Ok(given);
    }
    let user = caller.owners().into_iter().take(1).collect();
    if caller.is_admin() {
        return Ok(joined([given, user]));
    }
    let tenants = stored.iter().filter(|owner| owner.kind == OwnerKind::Tenant);
    if administrates(caller) {
        return Ok(joined([given, user, tenants.cloned().collect()]));
    }
    let first = stored.iter().find(|owner| owner.kind == OwnerKind::User);
    let stays = |owner: &&Owner| {
        owner.kind == OwnerKind::Tenant
            || given.contains(owner)
            || (Some(*owner) == first && owner.id != caller.user.as_str())
    };
    let kept = stored.iter().filter(stays).cloned().collect();
    Ok(joined([kept, given, user]))
}

/// In order, each once.
fn joined<const N: usize>(parts: [Vec<Owner>; N]) -> Vec<Owner> {
    let mut owners: Vec<Owner> = Vec::new();
    for owner in parts.into_iter().flatten() {
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    owners
}

/// Owners can be given only inside the caller's tenant; who was one before may stay.
fn check(given: &[Owner], stored: &[Owner], caller: &Caller, vouched: &Vouched) -> Result<(), Failure> {
    if given.len() > MAX_OWNERS {
        return Err(Failure::invalid(format!(
            "There are at most {MAX_OWNERS} owners."
        )));
    }
    if given.iter().any(|owner| owner.id.trim().is_empty()) {
        return Err(Failure::invalid("Owners require an id."));
    }
    if given.iter().any(|owner| owner.id.len() > MAX_ID) {
        return Err(Failure::invalid(format!(
            "The id of an owner has at most {MAX_ID} bytes."
        )));
    }
    let own = caller.owners();
    let is_foreign = |owner: &&Owner| {
        let vouched_for = owner.kind == OwnerKind::User && vouched.0.contains(&owner.id);
        !own.contains(owner) && !stored.contains(owner) && !vouched_for
    };
    match given.iter().find(is_foreign) {
        Some(owner) if !caller.is_admin() => Err(Failure::invalid(format!(
            "Owners have to belong to your tenant: the {} \"{}\" does not.",
            owner.kind.as_str(),
            owner.id
        ))),
        _ => Ok(()),
    }
}

/// Whether the user is no owner any more, since what `owners` own belongs to another tenant than the user does.
pub fn has_left(owners: &[Owner], user: &UserChanged) -> bool {
    let is_its = |owner: &&Owner| {
        let tenant = user.tenant.as_ref().map(TenantId::as_str);
        owner.kind == OwnerKind::Tenant && Some(owner.id.as_str()) == tenant
    };
    let tenants = || owners.iter().filter(|owner| owner.kind == OwnerKind::Tenant);
    tenants().next().is_some() && !tenants().any(|owner| is_its(&owner))
}

#[cfg(test)]
mod tests {
    use flowmate_common::ids::TokenId;

    use super::*;

    fn caller(user: &str, permissions: &[&str]) -> Caller {
        Caller {
            user: UserId::from(user),
            username: user.into(),
            tenant: Some("t1".into()),
            permissions: permissions.iter().map(ToString::to_string).collect(),
            can_login: true,
            token: TokenId::from("t"),
        }
    }

    fn user(id: &str) -> Owner {
        Owner {
            id: id.into(),
            kind: OwnerKind::User,
        }
    }

    fn tenant(id: &str) -> Owner {
        Owner {
            id: id.into(),
            kind: OwnerKind::Tenant,
        }
    }

    fn vouched(ids: &[&str]) -> Vouched {
        Vouched(ids.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn end_users_see_what_names_them_and_members_what_their_tenant_owns() {
        let only = |ids: &[&str]| Visibility::OwnedBy(ids.iter().map(ToString::to_string).collect());
        let end_user = |permissions| Caller {
            can_login: false,
            ..caller("u1", permissions)
        };
        assert_eq!(sees(&end_user(&["flows.read"])), only(&["u1"]));
        assert_eq!(sees_shared(&end_user(&["flows.read"])), only(&["u1", "t1"]));
        assert_eq!(sees(&end_user(&["tenant.all"])), only(&["u1", "t1"]));
        assert_eq!(sees(&caller("u1", &["flows.read"])), only(&["u1", "t1"]));
        assert_eq!(sees(&caller("u1", &["all"])), Visibility::All);
    }

    #[test]
    fn owners_are_given_inside_the_tenant_only() {
        let member = caller("u1", &["flows.write"]);
        let given = |owner: Owner| create(vec![owner], &member, &vouched(&["u2"]));
        assert_eq!(given(user("u2")).unwrap(), [user("u1"), tenant("t1"), user("u2")]);
        assert_eq!(given(tenant("t1")).unwrap(), [user("u1"), tenant("t1")]);
        // The id of a colleague is no tenant, and the other way round.
        for foreign in [user("u9"), tenant("t2"), tenant("u2"), user("t1"), user(" ")] {
            assert!(given(foreign.clone()).is_err(), "{foreign:?}");
            let chief = caller("u1", &["tenant.all"]);
            assert!(create(vec![foreign], &chief, &vouched(&["u2"])).is_err());
        }
        let admin = caller("u1", &["all"]);
        let owners = create(vec![user("u9"), tenant("t2")], &admin, &Vouched::default());
        assert_eq!(
            owners.unwrap(),
            [user("u9"), tenant("t2"), user("u1"), tenant("t1")]
        );
        let many = (0..=MAX_OWNERS).map(|number| user(&number.to_string())).collect();
        assert!(create(many, &admin, &Vouched::default()).is_err());
    }

    #[test]
    fn who_administrates_nothing_neither_reorders_nor_takes() {
        let stored = [user("u1"), tenant("t1"), user("u2")];
        let mate = caller("u3", &["flows.write"]);
        let none = Vouched::default();
        let reordered = vec![user("u2"), user("u1"), tenant("t1")];
        assert_eq!(change(&stored, reordered.clone(), &mate, &none).unwrap(), stored);
        assert_eq!(
            change(&stored, Vec::new(), &mate, &none).unwrap(),
            [user("u1"), tenant("t1"), user("u3")]
        );
        // An owner may go, and leaves it to the others.
        let own = caller("u1", &["flows.write"]);
        assert_eq!(
            change(&stored, vec![user("u2")], &own, &none).unwrap(),
            [tenant("t1"), user("u2"), user("u1")]
        );
        let chief = caller("u4", &["tenant.all"]);
        assert_eq!(
            change(&stored, reordered.clone(), &chief, &none).unwrap(),
            reordered
        );
        assert_eq!(
            change(&stored, Vec::new(), &chief, &none).unwrap(),
            [user("u4"), tenant("t1")]
        );
        let foreign = [user("u1"), tenant("t2")];
        assert!(change(&stored, vec![user("u9")], &chief, &none).is_err());
        assert_eq!(change(&foreign, foreign.to_vec(), &mate, &none).unwrap(), foreign);
        let admin = caller("u5", &["all"]);
        assert_eq!(change(&[], Vec::new(), &admin, &none).unwrap(), [user("u5")]);
    }

    #[test]
    fn who_left_the_tenant_owns_nothing_of_it() {
        let now_in = |tenant: Option<&str>| UserChanged {
            id: "u1".into(),
            username: "u1".into(),
            tenant: tenant.map(TenantId::from),
        };
        let owners = [user("u1"), tenant("t1")];
        assert!(!has_left(&owners, &now_in(Some("t1"))));
        assert!(has_left(&owners, &now_in(Some("t2"))));
        assert!(has_left(&owners, &now_in(None)));
        assert!(!has_left(&[user("u1")], &now_in(None)), "it was never a tenant's");
    }
}
