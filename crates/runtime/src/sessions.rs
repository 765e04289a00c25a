//! Which tokens are valid and what they allow, in every process: keys from user-iam, cached and looked at again from time
//! to time, revocations and what accounts may do, by event.

use std::time::Duration;

use flowmate_common::{
    Event, EventType, Failure, Timestamp, Topic,
    auth::{AccessChange, AccessSnapshot, TokenVerifier},
    ids::TokenId,
    model::TokenChanged,
};
use flowmate_retry::Backoff;
use serde::{Deserialize, Serialize};

use crate::{Context, internal::Remote};

/// How often the keys are looked at again. Where user-iam does not answer, those that are known stay.
const REFRESH: Duration = Duration::from_secs(60);
/// How often user-iam is asked whether all that it said was heard.
const ASKS: Duration = Duration::from_secs(5);
/// How long an event may take to come.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// How long a start waits for user-iam.
const PATIENCE: Duration = Duration::from_secs(60);

/// A token that was ended before its time.
#[derive(Serialize, Deserialize)]
pub struct Revoked {
    /// The token's id.
    pub id: TokenId,
    /// When it would have expired by itself.
    pub expires: Timestamp,
}

/// Ends the tokens that others end and takes the rights that others take, from now on; what was before is the caller's
/// to load after that.
pub async fn watch(context: &Context) -> Result<(), Failure> {
    let (tokens, clock) = (context.tokens.clone(), context.clock.clone());
    let watch = context.watch(Topic::Iam, "user-iam", move |event: Event| {
        apply(&tokens, &event, clock.now());
    });
    watch.await.map_err(Failure::internal)
}

fn apply(tokens: &TokenVerifier, event: &Event, now: Timestamp) {
    match event.kind {
        EventType::TokenDeleted => {
            if let Ok(body) = event.body::<TokenChanged>() {
                let id = TokenId::from(body.id.as_str());
                tokens.revocations().revoke_token(&id, body.expire_at, now);
            }
        }
        EventType::AccessChanged => {
            if let Ok(change) = event.body::<AccessChange>() {
                tokens.access().apply(change);
            }
        }
        _ => {}
    }
}

/// Learns of keys, revocations and rights from user-iam, and keeps up with them. Returns when tokens can be checked.
pub async fn follow(context: &Context, iam: Remote) -> Result<(), Failure> {
    watch(context).await?;
    let first = async {
        let mut backoff = Backoff::new("waiting for user-iam (services.user_iam)");
        while let Err(failure) = learn(context, &iam).await {
            backoff.wait(&failure).await;
        }
    };
    tokio::time::timeout(PATIENCE, first).await.map_err(|_| {
        Failure::internal("user-iam did not answer for a minute; is `services.user_iam` right?")
    })?;
    let (context_of_rights, iam_of_rights) = (context.clone(), iam.clone());
    context.spawn("rights of accounts", async move {
        loop {
            tokio::time::sleep(ASKS).await;
            if let Err(failure) = ask(&context_of_rights, &iam_of_rights).await {
                tracing::warn!(%failure, "what accounts may do stays as it was");
            }
        }
    });
    let tokens = context.tokens.clone();
    context.spawn("keys of user-iam", async move {
        loop {
            tokio::time::sleep(REFRESH).await;
            if let Err(failure) = keys(&tokens, &iam).await {
                tracing::warn!(%failure, "the keys of user-iam stay as they were");
            }
        }
    });
    Ok(())
}

async fn learn(context: &Context, iam: &Remote) -> Result<(), Failure> {
    keys(&context.tokens, iam).await?;
    let revoked: Vec<Revoked> = iam.call("tokens/revoked", &()).await?;
    for Revoked { id, expires } in revoked {
        let revocations = context.tokens.revocations();
        revocations.revoke_token(&id, expires, context.clock.now());
    }
    stored(context, iam).await
}

async fn stored(context: &Context, iam: &Remote) -> Result<(), Failure> {
    let stored: AccessSnapshot = iam.call("access/stored", &()).await?;
    let access = context.tokens.access();
    access.load(stored);
    access.follow(context.clock.now());
    Ok(())
}

/// Whether all came through. Events that come say nothing of those that do not.
async fn ask(context: &Context, iam: &Remote) -> Result<(), Failure> {
    let access = context.tokens.access();
    let latest: Timestamp = iam.call("access/latest", &()).await?;
    if latest > access.latest() {
        // It may be on its way.
        tokio::time::sleep(ON_ITS_WAY).await;
    }
    if latest > access.latest() {
        return learn(context, iam).await;
    }
    access.heard(context.clock.now());
    Ok(())
}

async fn keys(tokens: &TokenVerifier, iam: &Remote) -> Result<(), Failure> {
    let published = iam.get("/.well-known/jwks.json").await?;
    tokens.trust(&published).map_err(Failure::internal)
}
