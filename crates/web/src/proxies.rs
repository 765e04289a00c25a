//! Where a request comes from, behind proxies.

use std::net::IpAddr;

use actix_web::{HttpRequest, web::Data};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Proxies whose `X-Forwarded-For` counts: addresses and networks, with commas between them. Anybody else may write there
/// what they like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustedProxies(Vec<IpNet>);

impl TryFrom<String> for TrustedProxies {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let networks = words.map(|word| {
            let network = word.parse().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("{word} is neither an address nor a network such as 10.0.0.0/8"))
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

impl From<TrustedProxies> for String {
    fn from(proxies: TrustedProxies) -> Self {
        let words: Vec<String> = proxies.0.iter().map(ToString::to_string).collect();
        words.join(",")
    }
}

/// What stands between clients and this process.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Those of the operator.
    pub trusted: TrustedProxies,
    /// Whether our own gateway does: it says who called it, and nobody else reaches this process.
    pub behind_gateway: bool,
}

impl Proxies {
    /// The client's address: the last one that no proxy wrote.
    fn client<'a>(&self, peer: IpAddr, chain: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let mut before = chain.rev().map(str::trim);
        let mut client = peer;
        let mut is_trusted = self.behind_gateway || self.is_trusted(peer);
        while is_trusted && let Some(Ok(address)) = before.next().map(str::parse) {
            client = address;
            is_trusted = self.is_trusted(client);
        }
        client
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.0.iter().any(|network| network.contains(&address))
    }
}

/// The address of who made the request.
pub fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let Some(proxies) = request.app_data::<Data<Proxies>>() else {
        return Some(peer);
    };
    // Each proxy may have written a line of its own; together they are one list (RFC 9110, 5.3).
    let lines: Vec<&str> = request
        .headers()
        .get_all("x-forwarded-for")
        .map(|line| line.to_str().unwrap_or_default())
        .collect();
    Some(proxies.client(peer, lines.iter().flat_map(|line| line.split(','))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &Proxies, peer: &str, chain: &str) -> String {
        let chain = chain.split(',').filter(|entry| !entry.is_empty());
        proxies.client(peer.parse().unwrap(), chain).to_string()
    }

    #[test]
    fn only_what_trusted_proxies_write_counts() {
        let trusted = TrustedProxies::try_from("10.0.0.0/8, 192.0.2.7".to_owned()).unwrap();
        assert_eq!(String::from(trusted.clone()), "10.0.0.0/8,192.0.2.7/32");
        assert!(TrustedProxies::try_from("10.0.0.0/8,the proxy".to_owned()).is_err());
        let edge = Proxies {
            trusted,
            behind_gateway: false,
        };
        let inner = Proxies {
            behind_gateway: true,
            ..edge.clone()
        };
        for (proxies, peer, chain, expected) in [
            (&Proxies::default(), "203.0.113.1", "198.51.100.1", "203.0.113.1"),
            (&edge, "203.0.113.1", "198.51.100.1", "203.0.113.1"),
            (&edge, "10.1.1.1", "198.51.100.1", "198.51.100.1"),
            (&edge, "::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"),
            (
                &edge,
                "10.1.1.1",
                "1.1.1.1, 198.51.100.1, 192.0.2.7",
                "198.51.100.1",
            ),
            (&edge, "10.1.1.1", "1.1.1.1, nonsense, 192.0.2.7", "192.0.2.7"),
            (&edge, "10.1.1.1", "", "10.1.1.1"),
            (&inner, "172.16.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
            (&inner, "172.16.0.1", "198.51.100.1, 10.1.1.1", "198.51.100.1"),
        ] {
            assert_eq!(client(proxies, peer, chain), expected, "{peer} with {chain}");
        }
    }
}
