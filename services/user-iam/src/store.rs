//! Users and tokens as documents.

use std::time::Duration;

use flowmate_common::{
    Event, EventType, Failure, Kind, Timestamp,
    auth::Visibility,
    ids::{TenantId, TokenId, UserId},
    model::{TokenChanged, User, UserChanged, UserStatus},
};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Field, Filter, Query};
use serde::{Deserialize, Serialize};

use crate::{Admin, FirstAdmin, password};

/// Users that one answer may hold; the contract has no paging here.
const MAX_USERS: u64 = 10_000;
const CLEAN_EVERY: Duration = Duration::from_secs(3600);

/// A user as it is stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserRecord {
    pub(crate) user: User,
    /// PHC string; never leaves this service.
    pub(crate) password_hash: Option<String>,
    /// Tokens issued up to then are no longer valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_revoked_at: Option<Timestamp>,
}

impl Document for UserRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "users",
        fields: &[
            Field {
                name: "username",
                path: "$.user.username",
            },
            Field {
                name: "tenant",
                path: "$.user.tenant",
            },
            Field {
                name: "revoked",
                path: "$.tokensRevokedAt",
            },
        ],
        unique: &["username"],
    };

    fn id(&self) -> &str {
        self.user.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        let tenant = self.user.tenant.iter().map(TenantId::to_string);
        std::iter::once(self.user.id.to_string()).chain(tenant).collect()
    }
}

/// A token as it is stored: never the token itself.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenRecord {
    pub(crate) id: TokenId,
    pub(crate) account_id: UserId,
    pub(crate) created_at: Timestamp,
    pub(crate) expire_at: Timestamp,
    pub(crate) revoked: bool,
}

impl Document for TokenRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "tokens",
        fields: &[
            Field {
                name: "expireAt",
                path: "$.expireAt",
            },
            Field {
                name: "revoked",
                path: "$.revoked",
            },
        ],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        vec![self.account_id.to_string()]
    }
}

pub(crate) struct Store {
    users: Collection<UserRecord>,
    tokens: Collection<TokenRecord>,
}

/// A fault of the store as a failure of the request.
pub(crate) fn fault(error: Error) -> Failure {
    match error {
        Error::Duplicate => Failure::coded(Kind::Conflict, "DUPLICATE_KEY"),
        Error::Unavailable(_) => Failure::new(Kind::Unavailable, error.to_string()),
        other => Failure::internal(other),
    }
}

/// So that `?` works inside update closures.
pub(crate) struct Refused(pub(crate) Failure);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(fault(error))
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl Store {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        let users = Collection::open(&context.storage).await.map_err(fault)?;
        let tokens = Collection::open(&context.storage).await.map_err(fault)?;
        Ok(Self { users, tokens })
    }

    pub(crate) async fn user(&self, see: &Visibility, id: &str) -> Result<Option<UserRecord>, Failure> {
        self.users.get(see, id).await.map_err(fault)
    }

    pub(crate) async fn user_by_name(&self, username: &str) -> Result<Option<UserRecord>, Failure> {
        let query = Query::new(Filter::eq("username", username), 1);
        Ok(self
            .users
            .find(&Visibility::All, &query)
            .await
            .map_err(fault)?
            .pop())
    }

    pub(crate) async fn list(
        &self,
        see: &Visibility,
        usernames: Vec<&str>,
        ids: &[&str],
    ) -> Result<Vec<User>, Failure> {
        let mut filters = Vec::new();
        if !usernames.is_empty() {
            filters.push(Filter::In(
                "username",
                usernames.into_iter().map(Into::into).collect(),
            ));
        }
        if !ids.is_empty() {
            // A user is among its own owners, and no tenant has a user's id.
            filters.push(Filter::Or(
                ids.iter().map(|id| Filter::OwnedBy((*id).to_owned())).collect(),
            ));
        }
        let users = self
            .users
            .find(see, &Query::new(Filter::And(filters), MAX_USERS))
            .await
            .map_err(fault)?;
        Ok(users.into_iter().map(|record| record.user).collect())
    }

    pub(crate) async fn add(&self, context: &Context, record: &UserRecord) -> Result<(), Failure> {
        let event = user_event(context, EventType::UserCreated, record).map_err(fault)?;
        self.users.insert(record, vec![event]).await.map_err(fault)
    }

    pub(crate) async fn change(
        &self,
        context: &Context,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut UserRecord) -> Result<(), Failure>,
    ) -> Result<Option<UserRecord>, Failure> {
        let changed = self.users.update(see, id, |record| -> Result<Change, Refused> {
            change(record)?;
            record.user.updated_at = context.clock.now();
            Ok(Change::Write(vec![user_event(
                context,
                EventType::UserModified,
                record,
            )?]))
        });
        changed.await.map_err(|Refused(failure)| failure)
    }

    pub(crate) async fn add_token(&self, context: &Context, token: &TokenRecord) -> Result<(), Failure> {
        let event = token_event(context, EventType::TokenCreated, token).map_err(fault)?;
        self.tokens.insert(token, vec![event]).await.map_err(fault)
    }

    pub(crate) async fn revoke_token(&self, context: &Context, id: &TokenId) -> Result<(), Failure> {
        let revoked = self.tokens.update(
            &Visibility::All,
            id.as_str(),
            |token| -> Result<Change, Refused> {
                if token.revoked {
                    return Ok(Change::Keep);
                }
                token.revoked = true;
                Ok(Change::Write(vec![token_event(
                    context,
                    EventType::TokenDeleted,
                    token,
                )?]))
            },
        );
        if let Some(token) = revoked.await.map_err(|Refused(failure)| failure)? {
            context
                .tokens
                .revocations()
                .revoke_token(id, token.expire_at, context.clock.now());
        }
        Ok(())
    }

    /// Tells the verifier what earlier runs of this process revoked.
    pub(crate) async fn load_revocations(&self, context: &Context, lifetime: i64) -> Result<(), Failure> {
        let now = context.clock.now();
        let revocations = context.tokens.revocations();
        let revoked = Query::new(Filter::eq("revoked", true), u64::from(u32::MAX));
        for token in self
            .tokens
            .find(&Visibility::All, &revoked)
            .await
            .map_err(fault)?
        {
            revocations.revoke_token(&token.id, token.expire_at, now);
        }
        let everybody = Query::new(Filter::All, u64::from(u32::MAX));
        for record in self
            .users
            .find(&Visibility::All, &everybody)
            .await
            .map_err(fault)?
        {
            if let Some(at) = record.tokens_revoked_at {
                revocations.revoke_user(&record.user.id, at, at.plus_millis(lifetime * 1000), now);
            }
        }
        Ok(())
    }

    /// Forgets tokens that have expired, from time to time, for ever.
    pub(crate) async fn drop_expired_tokens(&self, context: &Context) {
        loop {
            if let Err(failure) = self.drop_expired_once(context.clock.now()).await {
                tracing::warn!(%failure, "expired tokens could not be removed");
            }
            tokio::time::sleep(CLEAN_EVERY).await;
        }
    }

    async fn drop_expired_once(&self, now: Timestamp) -> Result<(), Failure> {
        let everything = Query::new(Filter::All, u64::from(u32::MAX));
        for token in self
            .tokens
            .find(&Visibility::All, &everything)
            .await
            .map_err(fault)?
        {
            if token.expire_at < now {
                let id = token.id.as_str();
                let gone = self
                    .tokens
                    .delete(&Visibility::All, id, |_| Ok::<_, Refused>(Vec::new()));
                gone.await.map_err(|Refused(failure)| failure)?;
            }
        }
        Ok(())
    }
}

fn user_event(context: &Context, kind: EventType, record: &UserRecord) -> Result<Event, Error> {
    let User {
        id, username, tenant, ..
    } = &record.user;
    let body = UserChanged {
        id: id.clone(),
        username: username.clone(),
        tenant: tenant.clone(),
    };
    context.event(kind, id.as_str(), &body)
}

fn token_event(context: &Context, kind: EventType, token: &TokenRecord) -> Result<Event, Error> {
    let (id, account_id, expire_at) = (token.id.to_string(), token.account_id.clone(), token.expire_at);
    context.event(
        kind,
        token.id.as_str(),
        &TokenChanged {
            id,
            account_id,
            expire_at,
        },
    )
}

/// Makes the system administrator where there is no user yet.
pub(crate) async fn ensure_admin(
    context: &Context,
    store: &Store,
    passwords: &password::Passwords,
    admin: &Admin,
) -> Result<Option<FirstAdmin>, Failure> {
    if store
        .users
        .count(&Visibility::All, &Filter::All)
        .await
        .map_err(fault)?
        > 0
    {
        return Ok(None);
    }
    let generated = admin.password.is_none().then(password::generate);
    let secret = admin
        .password
        .clone()
        .or_else(|| generated.clone())
        .unwrap_or_default();
    let now = context.clock.now();
    let user = User {
        id: context.ids.document(now).into(),
        username: admin.username.clone(),
        firstname: None,
        lastname: None,
        status: UserStatus::Active,
        confirmed: true,
        can_login: true,
        tenant: None,
        roles: Vec::new(),
        permissions: vec!["all".into()],
        img: None,
        created_at: now,
        updated_at: now,
    };
    let password_hash = Some(passwords.hash(secret).await?);
    store
        .add(
            context,
            &UserRecord {
                user,
                password_hash,
                tokens_revoked_at: None,
            },
        )
        .await?;
    Ok(Some(FirstAdmin {
        username: admin.username.clone(),
        generated_password: generated,
    }))
}
