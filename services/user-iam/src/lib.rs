//! user-iam: who may log in, and the tokens they get.
//!
//! Owns the collections `users`, `tokens`, `roles` and `tenants`, and the signing key. Publishes on topic `iam`:
//! `iam.user.*`, `iam.tenant.*`, `iam.token.*`, and consumes its own events. Contract sections 1.2, 1.5, 2.1, 2.3, 4.

mod admin;
mod config;
mod events;
mod issue;
pub mod keys;
mod limiter;
mod password;
mod records;
mod routes;
mod store;

use std::{path::Path, sync::Arc};

use actix_web::web::Data;
use async_trait::async_trait;
use flowmate_common::{
    Failure, Topic,
    auth::{Caller, TokenSigner, Visibility},
    ids::{TenantId, TokenId, UserId},
};
use flowmate_runtime::{
    Context, Service,
    clients::Accounts,
    internal::{self, Identify, Members},
    sessions,
};
use flowmate_storage::{Document, Portable};
use flowmate_web::{ErrorStyle, ServiceConfig};

pub use admin::FirstAdmin;
pub use config::{Admin, Config};
use limiter::Limiter;
use password::Passwords;
use records::{RoleRecord, TenantRecord, TokenRecord, UserRecord};
use store::Store;
use tokio::sync::Semaphore;

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[
    Portable::of::<UserRecord>(),
    Portable::of::<TokenRecord>(),
    Portable::of::<RoleRecord>(),
    Portable::of::<TenantRecord>(),
];

/// First path segments whose failures are told as `{"message":"CODE"}`.
pub const ERROR_STYLES: &[(&str, ErrorStyle)] = &[
    ("login", ErrorStyle::Message),
    ("logout", ErrorStyle::Message),
    ("impersonate", ErrorStyle::Message),
    ("users", ErrorStyle::Message),
    ("tenants", ErrorStyle::Message),
    ("roles", ErrorStyle::Message),
    ("permissions", ErrorStyle::Message),
    ("tokens", ErrorStyle::Message),
];

/// Guesses that are held back at most; each takes a name and a password.
const HELD_BACK: usize = 1024;

/// What the operations need.
pub(crate) struct State {
    context: Context,
    config: Config,
    store: Store,
    signer: TokenSigner,
    passwords: Passwords,
    limiter: Limiter,
    /// Guesses at names that fail again and again wait here before they get a turn.
    held_back: Semaphore,
}

/// The service.
pub struct UserIam {
    state: Data<State>,
    first_admin: Option<FirstAdmin>,
}

impl UserIam {
    /// Opens the collections, reads or makes the signing key in `key_directory`, makes the administrator on the first
    /// start, and puts the context's token verifier to work.
    pub async fn start(
        context: &Context,
        config: Config,
        admin: &Admin,
        key_directory: &Path,
    ) -> Result<Self, Failure> {
        let signer = keys::open(key_directory).map_err(Failure::internal)?;
        context.tokens.trust(&signer.jwks()).map_err(Failure::internal)?;
        let store = Store::open(context).await?;
        let passwords = Passwords::new();
        let first_admin = admin::ensure(context, &store, &passwords, admin).await?;
        sessions::watch(context).await?;
        store.load_revocations().await?;
        context.tokens.access().load(store.stored_access().await?);
        context.relay(&[
            UserRecord::SPEC,
            TokenRecord::SPEC,
            RoleRecord::SPEC,
            TenantRecord::SPEC,
        ]);
        let state = State {
            context: context.clone(),
            config,
            store,
            signer,
            passwords,
            limiter: Limiter::default(),
            held_back: Semaphore::new(HELD_BACK),
        };
        let state = Arc::new(state);
        let cleaner = Arc::clone(&state);
        context.spawn("token cleaner", async move {
            cleaner.store.drop_expired_tokens().await;
        });
        let consuming = Arc::clone(&state);
        context.consume(Topic::Iam, "user-iam", move |event| {
            let state = Arc::clone(&consuming);
            async move { events::handle(&state, event).await }
        });
        let state = Data::from(state);
        Ok(Self { state, first_admin })
    }

    /// How other services of this process call this one.
    pub fn client(&self) -> Arc<dyn Accounts> {
        Arc::new(Local(self.state.clone()))
    }

    /// The administrator, if this start made one.
    pub fn first_admin(&self) -> Option<&FirstAdmin> {
        self.first_admin.as_ref()
    }
}

struct Local(Data<State>);

#[async_trait]
impl Accounts for Local {
    async fn identify(&self, username: &str, password: String) -> Result<Caller, Failure> {
        let record = routes::login::authenticate(&self.0, username, None, password).await?;
        issue::caller(&self.0, &record, TokenId::from("")).await
    }

    async fn members(&self, tenant: &TenantId, users: Vec<UserId>) -> Result<Vec<UserId>, Failure> {
        let mut members = Vec::new();
        for user in users {
            let record = self.0.store.user(&Visibility::All, user.as_str()).await?;
            if record.is_some_and(|record| record.user.tenant.as_ref() == Some(tenant)) {
                members.push(user);
            }
        }
        Ok(members)
    }

    async fn roams(&self, user: &UserId) -> Result<bool, Failure> {
        let Some(record) = self.0.store.user(&Visibility::All, user.as_str()).await? else {
            return Ok(false);
        };
        let permissions = self.0.store.effective_permissions(&record).await?;
        Ok(permissions.iter().any(|permission| permission == "all"))
    }
}

impl Service for UserIam {
    fn name(&self) -> &'static str {
        "user-iam"
    }

    fn configure(&self, config: &mut ServiceConfig<'_>) {
        config.app_data(self.state.clone());
        operations(config);
        let (context, name) = (&self.state.context, self.name());
        let state = self.state.clone();
        internal::serve(
            config,
            context,
            name,
            "accounts/identify",
            move |input: Identify| {
                let accounts = Local(state.clone());
                async move { accounts.identify(&input.username, input.password).await }
            },
        );
        let state = self.state.clone();
        internal::serve(
            config,
            context,
            name,
            "accounts/members",
            move |input: Members| {
                let accounts = Local(state.clone());
                async move { accounts.members(&input.tenant, input.users).await }
            },
        );
        let state = self.state.clone();
        internal::serve(config, context, name, "accounts/roams", move |user: UserId| {
            let accounts = Local(state.clone());
            async move { accounts.roams(&user).await }
        });
        let state = self.state.clone();
        internal::serve(config, context, name, "tokens/revoked", move |(): ()| {
            let state = state.clone();
            async move { state.store.revoked_tokens().await }
        });
        let state = self.state.clone();
        internal::serve(config, context, name, "access/stored", move |(): ()| {
            let state = state.clone();
            async move { state.store.stored_access().await }
        });
        let state = self.state.clone();
        internal::serve(config, context, name, "access/latest", move |(): ()| {
            let latest = state.context.tokens.access().latest();
            async move { Ok::<_, Failure>(latest) }
        });
    }

    fn error_styles(&self) -> &'static [(&'static str, ErrorStyle)] {
        ERROR_STYLES
    }

    fn context(&self) -> &Context {
        &self.state.context
    }
}

/// Registers the operations; the state comes with [`Service::configure`]. On its own this serves to write the spec.
pub fn operations(config: &mut ServiceConfig<'_>) {
    routes::configure(config);
}
