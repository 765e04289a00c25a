//! Where an outgoing request may go: not to private, link-local or loopback addresses, unless the operator says so
//! (architecture 7). Names are checked as they are resolved for the connection, so that an answer that changes
//! between check and connection does not help; literal addresses and redirects are checked before they are used.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use http_acl::HttpAcl;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use serde::{Deserialize, Serialize};

/// Networks that a setting may name.
const MAX_NETWORKS: usize = 256;

/// Which addresses that are not public steps may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Spelled", into = "String")]
pub struct PrivateTargets {
    /// All of them, but for those that have to be named.
    all: bool,
    /// Those in these networks.
    networks: Vec<IpNet>,
}

/// As a file or a variable has it: words and networks, in a list or with commas between them.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "it may be deny, allow or networks, as a text or as a list of texts"
)]
enum Spelled {
    Text(String),
    List(Vec<String>),
}

impl PrivateTargets {
    /// None.
    pub fn deny() -> Self {
        Self::default()
    }

    /// All but metadata services and link-local addresses.
    pub fn allow() -> Self {
        Self {
            all: true,
            networks: Vec::new(),
        }
    }

    /// Whether there are none.
    pub fn is_deny(&self) -> bool {
        *self == Self::default()
    }

    fn from_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut targets = Self::default();
        for word in words.map(str::trim).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                // What `auto` once meant let flows call a server behind a proxy on the same machine.
                "deny" | "auto" => {}
                "allow" => targets.all = true,
                network => targets.networks.push(network_of(network)?),
            }
        }
        if targets.networks.len() > MAX_NETWORKS {
            return Err(format!("names more than {MAX_NETWORKS} networks"));
        }
        Ok(targets)
    }

    fn names(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether a network names it that lies within `kind`: one that holds much else does not mean it.
    fn means(&self, address: IpAddr, kind: &IpNet) -> bool {
        let within = self.networks.iter().filter(|network| kind.contains(*network));
        within.into_iter().any(|network| network.contains(&address))
    }
}

impl TryFrom<Spelled> for PrivateTargets {
    type Error = String;

    fn try_from(spelled: Spelled) -> Result<Self, String> {
        match spelled {
            Spelled::Text(text) => Self::from_words(text.split(',')),
            Spelled::List(words) => Self::from_words(words.iter().map(String::as_str)),
        }
    }
}

impl fmt::Display for PrivateTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_deny() {
            return f.write_str("deny");
        }
        let all = self.all.then(|| "allow".to_owned());
        let networks = self.networks.iter().map(ToString::to_string);
        let words: Vec<String> = all.into_iter().chain(networks).collect();
        f.write_str(&words.join(","))
    }
}

impl From<PrivateTargets> for String {
    fn from(targets: PrivateTargets) -> Self {
        targets.to_string()
    }
}

/// A network, or an address alone.
fn network_of(word: &str) -> Result<IpNet, String> {
    let network = word.parse().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| {
        format!("\"{word}\" is neither deny, allow nor a network such as 127.0.0.0/8 or fd00::/8")
    })
}

/// What has to be named by itself, also where all else may be called: whoever answers there gives away credentials of
/// the machine, or is whoever happens to be on the same wire.
const NAMED_ONLY: [IpNet; 5] = [
    v4([169, 254, 0, 0], 16),
    v4([100, 100, 100, 200], 32),
    v4([168, 63, 129, 16], 32),
    v6(0xfe80 << 112, 10),
    v6((0xfd00_0ec2 << 96) | 0x254, 128),
];

/// What is not public either, beyond what the library knows.
const NOT_PUBLIC: [IpNet; 10] = [
    // Multicast.
    v4([224, 0, 0, 0], 4),
    v6(0xff00 << 112, 8),
    // Relays of 6to4.
    v4([192, 88, 99, 0], 24),
    // Reserved, and broadcast.
    v4([240, 0, 0, 0], 4),
    // Site-local, from before unique local addresses.
    v6(0xfec0 << 112, 10),
    // Unspecified, loopback, and IPv4 in the form that nobody uses any more.
    v6(0, 96),
    // IPv4 translated, and NAT64 of a network of one's own.
    v6(0xffff_0000 << 32, 96),
    v6(0x0064_ff9b_0001 << 80, 48),
    // Teredo and others of the protocols' own.
    v6(0x2001 << 112, 23),
    // Routers' own names for networks.
    v6(0x5f00 << 112, 16),
];

const fn v4([a, b, c, d]: [u8; 4], bits: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits))
}

const fn v6(address: u128, bits: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(address), bits))
}

/// Where a packet for `address` ends: some IPv6 addresses are IPv4 ones in disguise.
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(outer) = address else {
        return address;
    };
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match outer.segments() {
        // IPv4-mapped, NAT64, and 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => inner(high, low),
        _ => address,
    }
}

/// The rule, for the places that need it.
#[derive(Clone)]
pub(crate) struct Guard {
    rule: Arc<Rule>,
}

struct Rule {
    targets: PrivateTargets,
    /// Knows which addresses are public.
    public: HttpAcl,
}

impl Guard {
    pub(crate) fn new(targets: PrivateTargets) -> Self {
        let public = HttpAcl::builder()
            .non_global_ip_ranges(false)
            .ip_acl_default(true)
            .build();
        Self {
            rule: Arc::new(Rule { targets, public }),
        }
    }

    fn allows(&self, address: &IpAddr) -> bool {
        let Rule { targets, public } = &*self.rule;
        let address = reached(*address);
        if let Some(kind) = NAMED_ONLY.iter().find(|kind| kind.contains(&address)) {
            return targets.means(address, kind);
        }
        let is_public = public.is_ip_allowed(&address).is_allowed()
            && !NOT_PUBLIC.iter().any(|network| network.contains(&address));
        is_public || targets.all || targets.names(address)
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
        "{host} is not a public address; the operator can name networks that steps may call in \
         FLOWMATE__CONNECTORS__PRIVATE_TARGETS"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(setting: &str) -> Guard {
        Guard::new(PrivateTargets::from_words(setting.split(',')).unwrap())
    }

    fn allows(setting: &str, host: &str) -> bool {
        guard(setting)
            .check(&format!("http://{host}/").parse().unwrap())
            .is_ok()
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "2130706433",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "239.255.255.250",
            "192.88.99.1",
            "168.63.129.16",
            "169.254.169.254",
            "100.100.100.200",
            "[::]",
            "[::1]",
            "[::127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[::ffff:0:10.0.0.1]",
            "[::ffff:168.63.129.16]",
            "[64:ff9b::a00:1]",
            "[64:ff9b::224.0.0.1]",
            "[64:ff9b:1::a00:1]",
            "[2002:7f00:1::]",
            "[2002:a83f:8110::1]",
            "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
            "[fd00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ] {
            for setting in ["deny", "auto", ""] {
                assert!(!allows(setting, host), "{host} with \"{setting}\"");
            }
        }
        for host in [
            "93.184.215.14",
            "example.com",
            "[2606:4700::1111]",
            "[64:ff9b::5db8:d70e]",
            "[::ffff:93.184.215.14]",
        ] {
            assert!(allows("deny", host), "{host}");
        }
        for url in ["ftp://example.com/", "file:///etc/passwd"] {
            assert!(guard("allow").check(&url.parse().unwrap()).is_err(), "{url}");
        }
    }

    #[test]
    fn a_network_opens_what_is_in_it_and_nothing_else() {
        assert!(allows("127.0.0.0/8", "127.0.0.1"));
        assert!(allows("127.0.0.0/8", "[::ffff:127.0.0.1]"));
        for host in ["10.0.0.1", "[::1]", "0.0.0.0", "169.254.169.254"] {
            assert!(!allows("127.0.0.0/8", host), "{host}");
        }
        assert!(allows("10.0.0.0/8, fd00::/8, ::1", "[fd12::1]"));
        assert!(allows("10.0.0.0/8, fd00::/8, ::1", "[::1]"));
        assert!(allows("allow", "10.0.0.1"));
    }

    #[test]
    fn metadata_and_link_local_addresses_have_to_be_named() {
        for host in [
            "169.254.169.254",
            "[fe80::1]",
            "168.63.129.16",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "[::ffff:169.254.169.254]",
        ] {
            for setting in ["allow", "0.0.0.0/0,::/0", "100.64.0.0/10,fd00::/8"] {
                assert!(!allows(setting, host), "{host} with {setting}");
            }
        }
        assert!(allows("169.254.169.254", "169.254.169.254"));
        assert!(!allows("allow,169.254.169.254/32", "169.254.170.2"));
        assert!(allows("allow,fe80::/10", "[fe80::1]"));
    }

    #[test]
    fn the_setting_is_a_word_a_text_or_a_list() {
        let read = |value: serde_json::Value| serde_json::from_value::<PrivateTargets>(value);
        let shown = |value| serde_json::to_value(read(value).unwrap()).unwrap();
        assert_eq!(shown("auto".into()), "deny");
        assert_eq!(shown("allow".into()), "allow");
        assert_eq!(shown("127.0.0.0/8, ::1".into()), "127.0.0.0/8,::1/128");
        assert_eq!(
            shown(serde_json::json!(["10.0.0.0/8", "allow"])),
            "allow,10.0.0.0/8"
        );
        let refused = read("127.0.0.0/64".into()).unwrap_err().to_string();
        assert!(refused.contains("127.0.0.0/64"), "{refused}");
    }

    #[tokio::test]
    async fn names_of_forbidden_addresses_are_refused_when_resolved() {
        let name = || "localhost".parse::<Name>().unwrap();
        assert!(guard("deny").resolve(name()).await.is_err());
        assert!(guard("127.0.0.0/8").resolve(name()).await.is_ok());
    }
}
