use std::time::Duration;

use flowmate_common::{
    Event, EventType, Failure, Timestamp,
    auth::Visibility,
    ids::{TenantId, TokenId, UserId},
    model::{Token, TokenChanged},
};
use flowmate_runtime::sessions::Revoked;
use flowmate_storage::{Change, Error, Filter, Query};

use super::{SWEEP, Store, WHOLE};
use crate::records::{Lineage, TokenRecord};

const CLEAN_EVERY: Duration = Duration::from_secs(3600);

impl Store {
    /// A token that is valid.
    pub(crate) async fn token(&self, see: &Visibility, id: &str) -> Result<Option<Token>, Failure> {
        let found = self.token_record(see, id).await?;
        Ok(found.map(|record| record.token))
    }

    /// A token that is valid, and what it depends on.
    pub(crate) async fn token_record(
        &self,
        see: &Visibility,
        id: &str,
    ) -> Result<Option<TokenRecord>, Failure> {
        let now = self.context.clock.now();
        let found = self.tokens.get(see, id).await?;
        Ok(found.filter(|record| !record.revoked && record.ends() > now))
    }

    /// The tokens that are valid.
    pub(crate) async fn list_tokens(&self, see: &Visibility) -> Result<Vec<Token>, Failure> {
        let now = self.context.clock.now();
        let query = Query::new(Filter::eq("revoked", false), WHOLE);
        let found = self.tokens.find(see, &query).await?;
        Ok(found
            .into_iter()
            .filter(|record| record.ends() > now)
            .map(|record| record.token)
            .collect())
    }

    pub(crate) async fn add_token(&self, token: Token, lineage: Lineage) -> Result<(), Failure> {
        let record = TokenRecord {
            token,
            revoked: false,
            lineage,
        };
        let event = self.token_event(EventType::TokenCreated, &record)?;
        self.tokens.add(&record, vec![event]).await
    }

    /// Ends a token; `None` if there is none for who asks.
    pub(crate) async fn revoke_token(&self, see: &Visibility, id: &TokenId) -> Result<Option<()>, Failure> {
        let revoked = self.tokens.change(see, id.as_str(), |record| {
            if record.revoked {
                return Ok(Change::Keep);
            }
            record.revoked = true;
            let event = self.token_event(EventType::TokenDeleted, record)?;
            Ok(Change::Write(vec![event]))
        });
        let Some(record) = revoked.await? else {
            return Ok(None);
        };
        let (tokens, now) = (&self.context.tokens, self.context.clock.now());
        tokens.revocations().revoke_token(id, record.ends(), now);
        Ok(Some(()))
    }

    /// Ends all tokens of a user but this one. A token that is being issued meanwhile looks at the user once more by
    /// itself.
    pub(crate) async fn revoke_tokens_of(&self, user: &UserId, but: Option<&TokenId>) -> Result<(), Failure> {
        self.revoke_owned(user.as_str(), but).await
    }

    /// Ends all tokens of a tenant's users, however many.
    pub(crate) async fn revoke_tokens_in(&self, tenant: &TenantId) -> Result<(), Failure> {
        self.revoke_owned(tenant.as_str(), None).await
    }

    async fn revoke_owned(&self, owner: &str, but: Option<&TokenId>) -> Result<(), Failure> {
        let see = Visibility::OwnedBy(vec![owner.to_owned()]);
        let query = Query::new(Filter::eq("revoked", false), SWEEP);
        loop {
            let valid = self.tokens.find(&see, &query).await?;
            let ended = valid.iter().filter(|record| Some(&record.token.id) != but);
            let ended: Vec<&TokenId> = ended.map(|record| &record.token.id).collect();
            if ended.is_empty() {
                return Ok(());
            }
            for id in ended {
                self.revoke_token(&Visibility::All, id).await?;
            }
        }
    }

    /// Tells the verifier what was revoked before this process watched.
    pub(crate) async fn load_revocations(&self) -> Result<(), Failure> {
        let now = self.context.clock.now();
        for Revoked { id, expires } in self.revoked_tokens().await? {
            self.context.tokens.revocations().revoke_token(&id, expires, now);
        }
        Ok(())
    }

    /// The tokens that were ended and have not expired.
    pub(crate) async fn revoked_tokens(&self) -> Result<Vec<Revoked>, Failure> {
        let now = self.context.clock.now();
        let revoked = Query::new(Filter::eq("revoked", true), WHOLE);
        let revoked = self.tokens.find(&Visibility::All, &revoked).await?;
        let revoked = revoked.into_iter().map(|record| Revoked {
            expires: record.ends(),
            id: record.token.id,
        });
        Ok(revoked.filter(|one| one.expires > now).collect())
    }

    /// Forgets tokens that have expired, from time to time, for ever.
    pub(crate) async fn drop_expired_tokens(&self) {
        loop {
            if let Err(failure) = self.drop_expired_once(self.context.clock.now()).await {
                tracing::warn!(%failure, "expired tokens could not be removed");
            }
            tokio::time::sleep(CLEAN_EVERY).await;
        }
    }

    async fn drop_expired_once(&self, now: Timestamp) -> Result<(), Failure> {
        let everything = Query::new(Filter::All, WHOLE);
        let tokens = self.tokens.find(&Visibility::All, &everything).await;
        for record in tokens? {
            if record.ends() < now {
                let id = record.token.id.as_str();
                self.tokens
                    .delete(&Visibility::All, id, |_| Ok(Vec::new()))
                    .await?;
            }
        }
        Ok(())
    }

    fn token_event(&self, kind: EventType, record: &TokenRecord) -> Result<Event, Error> {
        let body = TokenChanged {
            id: record.token.id.to_string(),
            account_id: record.token.account_id.clone(),
            expire_at: record.ends(),
        };
        self.event(kind, record.token.id.as_str(), &body)
    }
}
