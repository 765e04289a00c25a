//! Who calls, checked before anything else of the request is looked at.

use std::{future::Ready, marker::PhantomData, ops::Deref, sync::Arc};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header, web::Data};
use flowmate_common::{
    Failure, Kind,
    auth::{Caller, Permission, TokenError, TokenVerifier},
};

use crate::ApiError;

/// A caller with the permission `P`. Without a valid token the answer is 401, without the permission 403 (contract
/// 1.4).
pub struct Allowed<P> {
    caller: Caller,
    permission: PhantomData<P>,
}

/// In the extensions of a request with a body: who is to hold it, as soon as that is known.
pub(crate) struct BudgetOwner(pub(crate) Arc<str>);

impl<P> Deref for Allowed<P> {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<P: Permission> FromRequest for Allowed<P> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let allowed = check::<P>(request);
        if let Ok(Allowed { caller, .. }) = &allowed
            && !matches!(payload, Payload::None)
        {
            let user = || (&caller.user).into();
            let holder = caller.tenant.as_ref().map_or_else(user, Into::into);
            request.extensions_mut().insert(BudgetOwner(holder));
        }
        std::future::ready(allowed.map_err(ApiError))
    }
}

fn check<P: Permission>(request: &HttpRequest) -> Result<Allowed<P>, Failure> {
    let unauthenticated = |message: &str, code| Failure::new(Kind::Unauthenticated, message).with_code(code);
    let header = request
        .headers()
        .get(header::AUTHORIZATION)
        .ok_or_else(|| unauthenticated("Missing authorization header.", "NOT_LOGGED_IN"))?;
    let invalid = || unauthenticated("Invalid authorization header", "INVALID_HEADER");
    // The scheme word is not looked at, as in the reference.
    let mut words = header.to_str().map_err(|_| invalid())?.split_ascii_whitespace();
    let (Some(_), Some(token), None) = (words.next(), words.next(), words.next()) else {
        return Err(invalid());
    };
    let verifier = request
        .app_data::<Data<TokenVerifier>>()
        .ok_or_else(|| Failure::internal("no token verifier is configured"))?;
    let caller = verifier.verify(token).map_err(|reason| {
        tracing::debug!(%reason, "token refused");
        if matches!(reason, TokenError::Unsure) {
            return Failure::new(Kind::Unavailable, reason.to_string());
        }
        let message = "Token invalid. Error: Error. Details: Token not found in IAM";
        unauthenticated(message, "INVALID_TOKEN")
    })?;
    if !caller.may::<P>() {
        return Err(Failure::coded(Kind::Forbidden, "MISSING_PERMISSION"));
    }
    Ok(Allowed {
        caller,
        permission: PhantomData,
    })
}
