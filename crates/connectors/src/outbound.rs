//! Where an outgoing request may go: not to private, link-local or loopback addresses, unless the operator says so
//! (architecture 7). Names are checked as they are resolved for the connection, so that an answer that changes
//! between check and connection does not help; literal addresses and redirects are checked before they are used.

use std::{net::IpAddr, sync::Arc};

use http_acl::HttpAcl;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::{Attempt, Policy},
};
use serde::{Deserialize, Serialize};

/// Whether steps may call addresses that are not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrivateTargets {
    /// As long as the server itself listens on loopback only, that is on a developer's machine.
    Auto,
    /// Always.
    Allow,
    /// Never.
    Deny,
}

/// Redirects followed.
const MAX_REDIRECTS: usize = 5;

/// The rule, for the three places that need it.
#[derive(Clone)]
pub(crate) struct Guard {
    acl: Arc<HttpAcl>,
}

impl Guard {
    pub(crate) fn new(private: bool) -> Self {
        let acl = HttpAcl::builder()
            .non_global_ip_ranges(private)
            .ip_acl_default(true)
            .build();
        Self { acl: Arc::new(acl) }
    }

    fn allows(&self, address: &IpAddr) -> bool {
        self.acl.is_ip_allowed(address).is_allowed()
    }

    /// Refuses URLs that are no http(s) or name a forbidden address literally.
    pub(crate) fn check(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!(
                "the URL's scheme is \"{}\"; http and https are allowed",
                url.scheme()
            ));
        }
        let literal = url
            .host_str()
            .map(|host| host.trim_matches(['[', ']']).parse::<IpAddr>());
        match literal {
            Some(Ok(address)) if !self.allows(&address) => Err(refusal(&address.to_string())),
            Some(_) => Ok(()),
            None => Err("the URL has no host".into()),
        }
    }

    pub(crate) fn redirects(&self) -> Policy {
        let guard = self.clone();
        Policy::custom(move |attempt: Attempt<'_>| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error(format!("more than {MAX_REDIRECTS} redirects"));
            }
            match guard.check(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(reason) => attempt.error(reason),
            }
        })
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<_> = found.filter(|address| guard.allows(&address.ip())).collect();
            if allowed.is_empty() {
                return Err(refusal(name.as_str()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn refusal(host: &str) -> String {
    format!(
        "{host} is not a public address; the operator can allow such targets with \
         FLOWMATE__CONNECTORS__PRIVATE_TARGETS=allow"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_spelling() {
        let guard = Guard::new(false);
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[64:ff9b::a00:1]/",
            "http://169.254.169.254/latest",
            "http://10.1.2.3/",
            "http://172.16.0.1/",
            "http://192.168.1.1/",
            "http://100.64.0.1/",
            "http://0.0.0.0/",
            "http://[fd00::1]/",
            "http://[fe80::1]/",
            "http://[2002:7f00:1::]/",
            "ftp://example.com/",
            "file:///etc/passwd",
        ] {
            assert!(guard.check(&url.parse().unwrap()).is_err(), "{url}");
        }
        assert!(guard.check(&"https://93.184.215.14/".parse().unwrap()).is_ok());
        assert!(
            Guard::new(true)
                .check(&"http://127.0.0.1:9/".parse().unwrap())
                .is_ok()
        );
    }

    #[tokio::test]
    async fn names_of_forbidden_addresses_are_refused_when_resolved() {
        let name = || "localhost".parse::<Name>().unwrap();
        assert!(Guard::new(false).resolve(name()).await.is_err());
        assert!(Guard::new(true).resolve(name()).await.is_ok());
    }
}
