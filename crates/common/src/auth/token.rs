//! Tokens: JWTs signed with Ed25519, opaque to clients, verified locally by every service (RFC 7519, RFC 8037).

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::signature::Ed25519KeyPair;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{Access, Caller};
use crate::{
    Clock, Timestamp,
    ids::{TenantId, TokenId, UserId},
};

const ISSUER: &str = "flowmate";

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Always `flowmate`.
    pub iss: String,
    /// The user's id.
    pub sub: UserId,
    /// The token's id.
    pub jti: TokenId,
    /// The user's external id.
    pub username: String,
    /// The user's tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Whether the account could log in when it was issued.
    #[serde(default)]
    pub can_login: bool,
    /// Effective permissions when it was issued, `extra` among them.
    pub permissions: Vec<String>,
    /// What it allows beyond the account's permissions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<String>,
    /// The account's version when it was issued.
    #[serde(default)]
    pub version: Timestamp,
    /// Who made it for the account, each with a token that the one before made: it allows what all of them may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grantors: Vec<UserId>,
    /// The tokens that it ends with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<TokenId>,
    /// Issued at, seconds since the Unix epoch.
    pub iat: i64,
    /// Expires at, seconds since the Unix epoch.
    pub exp: i64,
}

impl Claims {
    /// The claims of a token for `caller`, valid from `now` for `lifetime_seconds`.
    pub fn new(caller: &Caller, now: Timestamp, lifetime_seconds: i64) -> Self {
        Self {
            iss: ISSUER.into(),
            sub: caller.user.clone(),
            jti: caller.token.clone(),
            username: caller.username.clone(),
            tenant: caller.tenant.clone(),
            can_login: caller.can_login,
            permissions: caller.permissions.clone(),
            extra: Vec::new(),
            version: Timestamp::default(),
            grantors: Vec::new(),
            ancestors: Vec::new(),
            iat: now.as_seconds(),
            exp: now.as_seconds().saturating_add(lifetime_seconds),
        }
    }
}

/// Why a token or a key was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Malformed, forged, of another algorithm or signed with an unknown key.
    #[error("the token is not one of ours: {0}")]
    Forged(String),
    /// Valid once, no longer.
    #[error("the token has expired")]
    Expired,
    /// Logged out, deleted, or its user was disabled.
    #[error("the token was revoked")]
    Revoked,
    /// What it allows now is not known: user-iam has not been heard of for too long.
    #[error("user-iam has not been heard of: what the token allows is not known")]
    Unsure,
    /// The signing key cannot be read or made.
    #[error("the signing key cannot be used: {0}")]
    Key(String),
}

/// Makes tokens. Only user-iam holds one.
pub struct TokenSigner {
    key: EncodingKey,
    key_id: String,
    jwk: Jwk,
}

impl TokenSigner {
    /// A new private key, PKCS#8 in DER.
    pub fn generate_key() -> Result<Vec<u8>, TokenError> {
        let pair = Ed25519KeyPair::generate().map_err(|error| TokenError::Key(error.to_string()))?;
        let document = pair
            .to_pkcs8v1()
            .map_err(|error| TokenError::Key(error.to_string()))?;
        Ok(document.as_ref().to_vec())
    }

    /// A signer with this private key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, TokenError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map_err(|error| TokenError::Key(format!("not an Ed25519 key in PKCS#8 DER form: {error}")))?;
        let key = EncodingKey::from_ed_der(der);
        let fail = |error: jsonwebtoken::errors::Error| TokenError::Key(error.to_string());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).map_err(fail)?;
        let key_id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(fail)?;
        jwk.common.key_id = Some(key_id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { key, key_id, jwk })
    }

    /// The public half, as published under `/.well-known/jwks.json`.
    pub fn jwks(&self) -> JwkSet {
        JwkSet {
            keys: vec![self.jwk.clone()],
        }
    }

    /// Signs `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id.clone());
        encode(&header, claims, &self.key).map_err(|error| TokenError::Key(error.to_string()))
    }
}

/// Which tokens are no longer valid although their signature is. An entry is kept until the tokens it is about would
/// have expired anyway, so the size is bounded by what is revoked within one token lifetime.
#[derive(Debug, Default)]
pub struct Revocations {
    /// When the entry is no longer needed, Unix time in seconds, by the token's id.
    by_id: RwLock<HashMap<String, i64>>,
}

impl Revocations {
    /// Refuses this token, which would expire by itself at `expires`.
    pub fn revoke_token(&self, id: &TokenId, expires: Timestamp, now: Timestamp) {
        let mut by_id = self.by_id.write();
        // From time to time, so that revoking many at once stays cheap.
        if by_id.len().is_power_of_two() {
            by_id.retain(|_, expires| *expires > now.as_seconds());
        }
        by_id.insert(id.to_string(), expires.as_seconds());
    }

    /// Whether the token was ended, or one that it ends with.
    fn concern(&self, claims: &Claims) -> bool {
        let by_id = self.by_id.read();
        std::iter::once(&claims.jti)
            .chain(&claims.ancestors)
            .any(|id| by_id.contains_key(id.as_str()))
    }
}

/// Checks tokens against published keys, revocations and what accounts may do now. Cheap to clone.
#[derive(Clone)]
pub struct TokenVerifier {
    keys: Arc<RwLock<HashMap<String, DecodingKey>>>,
    revocations: Arc<Revocations>,
    access: Arc<Access>,
    clock: Clock,
}

impl TokenVerifier {
    /// A verifier that knows no key yet and refuses everything.
    pub fn new(clock: Clock) -> Self {
        Self {
            keys: Arc::default(),
            revocations: Arc::default(),
            access: Arc::default(),
            clock,
        }
    }

    /// Trusts these keys from now on, and no others.
    pub fn trust(&self, jwks: &JwkSet) -> Result<(), TokenError> {
        let mut keys = HashMap::new();
        for jwk in &jwks.keys {
            let key = DecodingKey::from_jwk(jwk).map_err(|error| TokenError::Key(error.to_string()))?;
            keys.insert(jwk.common.key_id.clone().unwrap_or_default(), key);
        }
        *self.keys.write() = keys;
        Ok(())
    }

    /// What was revoked.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// What accounts may do now.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The caller that `token` stands for. The algorithm is ours to choose, never the token's.
    pub fn verify(&self, token: &str) -> Result<Caller, TokenError> {
        let forged = |error: jsonwebtoken::errors::Error| TokenError::Forged(error.to_string());
        let header = decode_header(token).map_err(forged)?;
        let keys = self.keys.read();
        let key = keys
            .get(header.kid.as_deref().unwrap_or_default())
            .ok_or_else(|| TokenError::Forged("signed with an unknown key".into()))?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // Expiry is compared below, with our own clock.
        validation.validate_exp = false;
        let claims = decode::<Claims>(token, key, &validation).map_err(forged)?.claims;
        if claims.exp <= self.clock.now().as_seconds() {
            return Err(TokenError::Expired);
        }
        if self.revocations.concern(&claims) {
            return Err(TokenError::Revoked);
        }
        if self.access.is_stale(self.clock.now()) {
            return Err(TokenError::Unsure);
        }
        self.access.present(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller {
            user: UserId::from("5c99ec7e5ed40d3e7512cffa"),
            username: "ada".into(),
            tenant: None,
            permissions: vec!["all".into()],
            can_login: true,
            token: TokenId::from("t1"),
        }
    }

    fn pair(clock: &Clock) -> (TokenSigner, TokenVerifier) {
        let signer = TokenSigner::from_pkcs8(&TokenSigner::generate_key().unwrap()).unwrap();
        let verifier = TokenVerifier::new(clock.clone());
        verifier.trust(&signer.jwks()).unwrap();
        (signer, verifier)
    }

    #[test]
    fn a_signed_token_stands_for_its_caller_until_it_expires_or_is_revoked() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let (signer, verifier) = pair(&clock);
        let token = signer.sign(&Claims::new(&caller(), clock.now(), 60)).unwrap();
        assert_eq!(verifier.verify(&token).unwrap(), caller());
        clock.advance(59_000);
        assert!(verifier.verify(&token).is_ok());
        clock.advance(1_000);
        assert!(matches!(verifier.verify(&token), Err(TokenError::Expired)));

        let token = signer.sign(&Claims::new(&caller(), clock.now(), 60)).unwrap();
        let (now, later) = (clock.now(), clock.now().plus_millis(60_000));
        verifier
            .revocations()
            .revoke_token(&TokenId::from("t1"), later, now);
        assert!(matches!(verifier.verify(&token), Err(TokenError::Revoked)));

        let child = Claims {
            jti: TokenId::from("t2"),
            ancestors: vec![TokenId::from("t1")],
            ..Claims::new(&caller(), clock.now(), 60)
        };
        let token = signer.sign(&child).unwrap();
        assert!(matches!(verifier.verify(&token), Err(TokenError::Revoked)));
    }

    #[test]
    fn tokens_of_other_keys_algorithms_and_no_algorithm_are_refused() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let (signer, verifier) = pair(&clock);
        let (stranger, _) = pair(&clock);
        let claims = Claims::new(&caller(), clock.now(), 60);
        assert!(verifier.verify(&stranger.sign(&claims).unwrap()).is_err());

        let symmetric = {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = Some(signer.key_id.clone());
            encode(&header, &claims, &EncodingKey::from_secret(b"public")).unwrap()
        };
        assert!(verifier.verify(&symmetric).is_err());

        // {"alg":"none","typ":"JWT"} and a body of ours, with and without a signature
        let token = signer.sign(&claims).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        assert!(verifier.verify(&none).is_err());
        assert!(verifier.verify(&format!("{none}{}", parts[2])).is_err());
        for rubbish in ["", ".", "..", "a.b.c", "\u{0}"] {
            assert!(verifier.verify(rubbish).is_err());
        }
    }
}
