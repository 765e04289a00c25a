//! user-iam: who may log in, and the tokens they get.
//!
//! Owns the collections `users` and `tokens` and the signing key. Publishes on topic `iam`: `iam.user.created`,
//! `iam.user.modified`, `iam.token.created`, `iam.token.deleted`. Contract sections 1.2, 2.1, 2.3.

mod config;
mod keys;
mod limiter;
mod password;
mod routes;
mod store;

use std::{path::Path, sync::Arc};

use actix_web::web::Data;
use async_trait::async_trait;
use flowmate_common::{Failure, auth::TokenSigner, model::UserStatus};
use flowmate_runtime::{Context, Health, Service};
use flowmate_storage::Document;
use flowmate_web::{ErrorStyle, ServiceConfig};

pub use config::{Admin, Config};
use limiter::Limiter;
use password::Passwords;
use store::{Store, TokenRecord, UserRecord};

/// What the operations need.
pub(crate) struct State {
    context: Context,
    config: Config,
    store: Store,
    signer: TokenSigner,
    passwords: Passwords,
    limiter: Limiter,
}

/// The service.
pub struct UserIam {
    state: Data<State>,
    first_admin: Option<FirstAdmin>,
}

/// The system administrator that the first start made.
#[derive(Clone, Debug)]
pub struct FirstAdmin {
    /// The name to log in with.
    pub username: String,
    /// The password, where it was generated; it is not kept anywhere in clear.
    pub generated_password: Option<String>,
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
        let first_admin = store::ensure_admin(context, &store, &passwords, admin).await?;
        store
            .load_revocations(context, config.token_lifetime_seconds)
            .await?;
        context.relay(&[UserRecord::SPEC, TokenRecord::SPEC]);
        let state = State {
            context: context.clone(),
            config,
            store,
            signer,
            passwords,
            limiter: Limiter::new(),
        };
        let state = Data::from(Arc::new(state));
        let cleaner = state.clone();
        context.spawn("token cleaner", async move {
            cleaner.store.drop_expired_tokens(&cleaner.context).await;
        });
        Ok(Self { state, first_admin })
    }

    /// The administrator, if this start made one.
    pub fn first_admin(&self) -> Option<&FirstAdmin> {
        self.first_admin.as_ref()
    }
}

#[async_trait]
impl Service for UserIam {
    fn name(&self) -> &'static str {
        "user-iam"
    }

    fn configure(&self, config: &mut ServiceConfig<'_>) {
        config.app_data(self.state.clone());
        operations(config);
    }

    fn error_styles(&self) -> &'static [(&'static str, ErrorStyle)] {
        &[
            ("login", ErrorStyle::Message),
            ("logout", ErrorStyle::Message),
            ("users", ErrorStyle::Message),
        ]
    }

    async fn health(&self) -> Health {
        match self.state.context.storage.documents().ping().await {
            Ok(()) => Health::Pass,
            Err(error) => Health::Fail(error.to_string()),
        }
    }
}

/// Whether a user of that status may work.
pub(crate) fn may_work(status: UserStatus) -> bool {
    status == UserStatus::Active
}

/// Registers the operations; the state comes with [`Service::configure`]. On its own this serves to write the spec.
pub fn operations(config: &mut ServiceConfig<'_>) {
    routes::configure(config);
}
