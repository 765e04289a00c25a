//! Tokens that services show each other: signed with a secret that all of them have, for one callee, for a minute.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use super::TokenError;
use crate::Clock;

/// Seconds that a token is valid.
const LIFETIME: i64 = 60;
/// What no user's token says: neither is taken for the other.
const ISSUER: &str = "flowmate-services";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    /// The calling service.
    sub: String,
    /// The called service.
    aud: String,
    exp: i64,
}

/// Makes and checks them. Cheap to clone.
#[derive(Clone)]
pub struct ServiceTokens {
    signing: EncodingKey,
    checking: DecodingKey,
    clock: Clock,
}

impl ServiceTokens {
    /// Bytes that a secret has at least: as many as the hash (RFC 7518, 3.2).
    pub const MIN_SECRET: usize = 32;

    /// Tokens signed with this secret.
    pub fn new(secret: &str, clock: Clock) -> Self {
        Self {
            signing: EncodingKey::from_secret(secret.as_bytes()),
            checking: DecodingKey::from_secret(secret.as_bytes()),
            clock,
        }
    }

    /// A token with which `caller` calls `callee`.
    pub fn sign(&self, caller: &str, callee: &str) -> Result<String, TokenError> {
        let claims = Claims {
            iss: ISSUER.into(),
            sub: caller.into(),
            aud: callee.into(),
            exp: self.clock.now().as_seconds() + LIFETIME,
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(|error| TokenError::Key(error.to_string()))
    }

    /// The service that calls `callee` with this token.
    pub fn verify(&self, token: &str, callee: &str) -> Result<String, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[callee]);
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        // Expiry is compared below, with our own clock.
        validation.validate_exp = false;
        let claims = decode::<Claims>(token, &self.checking, &validation)
            .map_err(|error| TokenError::Forged(error.to_string()))?
            .claims;
        if claims.exp <= self.clock.now().as_seconds() {
            return Err(TokenError::Expired);
        }
        Ok(claims.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn a_token_is_for_one_callee_one_secret_and_a_minute() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let tokens = ServiceTokens::new("a secret of at least thirty-two bytes", clock.clone());
        let token = tokens.sign("webhook", "user-iam").unwrap();
        assert_eq!(tokens.verify(&token, "user-iam").unwrap(), "webhook");
        assert!(tokens.verify(&token, "flow-repository").is_err());
        let other = ServiceTokens::new("another secret of thirty-two bytes or more", clock.clone());
        assert!(other.verify(&token, "user-iam").is_err());
        clock.advance(60_000);
        assert!(matches!(
            tokens.verify(&token, "user-iam"),
            Err(TokenError::Expired)
        ));
    }
}
