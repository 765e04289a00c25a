//! The system administrator that the first start makes.

use flowmate_common::{
    Failure, Kind,
    model::{AccountStatus, User},
};
use flowmate_runtime::Context;

use crate::{
    Admin,
    password::{self, Passwords},
    records::{UserRecord, unique_name},
    store::Store,
};

/// The system administrator that the first start made.
#[derive(Clone, Debug)]
pub struct FirstAdmin {
    /// The name to log in with.
    pub username: String,
    /// The password, where it was generated; it is not kept anywhere in clear.
    pub generated_password: Option<String>,
}

/// Makes the system administrator where there is no user yet.
pub(crate) async fn ensure(
    context: &Context,
    store: &Store,
    passwords: &Passwords,
    admin: &Admin,
) -> Result<Option<FirstAdmin>, Failure> {
    if store.has_users().await? {
        return Ok(None);
    }
    let generated = admin.password.is_none().then(password::generate);
    let secret = admin
        .password
        .clone()
        .or_else(|| generated.clone())
        .unwrap_or_default();
    let now = context.clock.now();
    let record = UserRecord {
        user: User {
            id: context.ids.document(now).into(),
            username: admin.username.clone(),
            firstname: None,
            lastname: None,
            status: AccountStatus::Active,
            confirmed: true,
            can_login: true,
            tenant: None,
            roles: Vec::new(),
            permissions: vec!["all".into()],
            img: None,
            created_at: now,
            updated_at: now,
        },
        role_ids: Vec::new(),
        unique_name: unique_name(&admin.username, true, None),
        tenant_name: None,
        password_hash: Some(passwords.hash(secret).await?),
    };
    match store.add_user(&record).await {
        Ok(()) => {}
        // Another replica was first.
        Err(failure) if failure.kind == Kind::Conflict => return Ok(None),
        Err(failure) => return Err(failure),
    }
    Ok(Some(FirstAdmin {
        username: admin.username.clone(),
        generated_password: generated,
    }))
}
