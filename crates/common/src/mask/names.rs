//! What the name of a field says of its value. Names are looked at by their words, so that a secretary is no secret.

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Nothing,
    /// The value is a secret.
    Secret,
    /// It is one, unless the object is an entry of a list and the value does not look like a credential.
    SecretUnlessEntry,
    /// It is one where it looks like a credential.
    SecretIfItLooks,
}

/// Words for secrets. Some are several words that people write as one.
const SECRETS: &[&str] = &[
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "secrets",
    "token",
    "authorization",
    "credential",
    "credentials",
    "cookie",
    "cookies",
    "otp",
    "totp",
    "jwt",
    "hmac",
    "xhmac",
    "apikey",
    "apikeys",
    "xapikey",
    "accesskey",
    "privatekey",
    "secretkey",
    "authtoken",
    "accesstoken",
    "refreshtoken",
    "idtoken",
    "bearertoken",
    "clientsecret",
    "sessionid",
    "jsessionid",
    "phpsessid",
    "userpassword",
    "newpassword",
    "oldpassword",
];

/// Two words that are a secret together.
const PAIRS: &[(&str, &str)] = &[
    ("api", "key"),
    ("api", "keys"),
    ("xapi", "key"),
    ("access", "key"),
    ("account", "key"),
    ("encryption", "key"),
    ("master", "key"),
    ("private", "key"),
    ("shared", "key"),
    ("signing", "key"),
    ("subscription", "key"),
    ("session", "id"),
];

/// What stands last in names of something about a secret that is none itself.
const HARMLESS: &[&str] = &[
    "age",
    "algorithm",
    "at",
    "banner",
    "changed",
    "consent",
    "count",
    "created",
    "date",
    "enabled",
    "endpoint",
    "expiration",
    "expired",
    "expires",
    "expiry",
    "id",
    "ids",
    "in",
    "length",
    "lifetime",
    "limit",
    "name",
    "notice",
    "policy",
    "preferences",
    "required",
    "settings",
    "status",
    "strength",
    "ttl",
    "type",
    "updated",
    "uri",
    "url",
    "usage",
    "valid",
];

/// What stands before `token` where it says only how far a list was read.
const POSITIONS: &[&str] = &[
    "page",
    "next",
    "previous",
    "prev",
    "sync",
    "continuation",
    "delta",
    "cursor",
];

/// Letters of a word, or digits; longer names are looked at as far as this.
const MAX_WORDS: usize = 32;

pub(super) fn says(name: &str) -> Says {
    let words = words(name);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(end) = end_of_secret(&words) {
        let rest = words.get(end..).unwrap_or_default();
        let is_about_it = rest.last().is_some_and(|last| HARMLESS.contains(last));
        return if is_about_it { Says::Nothing } else { Says::Secret };
    }
    match words.as_slice() {
        ["key" | "pin"] | [.., "pin", "code" | "number"] | ["card" | "user", "pin"] => {
            Says::SecretUnlessEntry
        }
        ["code"] | ["auth", "code"] => Says::SecretIfItLooks,
        _ if words.contains(&"signature") => Says::SecretUnlessEntry,
        _ => Says::Nothing,
    }
}

/// Behind which word the last secret of the name ends.
fn end_of_secret(words: &[&str]) -> Option<usize> {
    let is_secret = |index: usize| {
        let before = index.checked_sub(1).and_then(|before| words.get(before));
        let Some(word) = words.get(index) else {
            return false;
        };
        if *word == "token" && before.is_some_and(|before| POSITIONS.contains(before)) {
            return false;
        }
        SECRETS.contains(word) || before.is_some_and(|before| PAIRS.contains(&(before, word)))
    };
    (0..words.len())
        .rev()
        .find(|index| is_secret(*index))
        .map(|index| index + 1)
}

/// `X-Api-Key`, `x_api_key`, `xApiKey` and `XAPIKey` are all x, api, key.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut begins = true;
    let mut characters = name.chars().peekable();
    let mut before = ' ';
    while let Some(c) = characters.next() {
        if c.is_alphanumeric() {
            let goes_down = characters.peek().is_some_and(|next| next.is_lowercase());
            let is_hump =
                c.is_uppercase() && (!before.is_uppercase() || goes_down) && before.is_alphanumeric();
            let is_number = c.is_numeric() != before.is_numeric() && before.is_alphanumeric();
            if begins || is_hump || is_number {
                if words.len() == MAX_WORDS {
                    break;
                }
                words.push(String::new());
            }
            begins = false;
            if let Some(word) = words.last_mut() {
                word.extend(c.to_lowercase());
            }
        } else {
            begins = true;
        }
        before = c;
    }
    words
}

/// A quick test that may say yes too often and never no wrongly: does a fragment common to the names appear, or something
/// that a text may hold a secret behind?
///
/// By hand, since it runs over every recorded step: the automaton of `aho-corasick` without regard to case took 2.1 ms for
/// 384 KiB of JSON where this took 0.75 ms (best of fifteen); small texts take either about as long.
pub(super) fn may_hold_secret(text: &[u8]) -> bool {
    let mut before = b' ';
    text.windows(4).any(|window| {
        let &[first, second, third, fourth] = window else {
            return false;
        };
        // Setting this bit makes ASCII letters lower case; other bytes it changes only cause a needless parse.
        let rest = [second | 0x20, third | 0x20, fourth | 0x20];
        // A short word counts only where a word begins or ends, since its letters are in many others.
        let is_word =
            || !before.is_ascii_alphabetic() || first.is_ascii_uppercase() || !fourth.is_ascii_lowercase();
        let found = match (first | 0x20, &rest) {
            (b'p', b"ass" | b"riv")
            | (b's', b"ecr" | b"ess" | b"ign")
            | (b'a', b"uth" | [b'p', b'i', _])
            | (b't', b"oke")
            | (b'c', b"ook" | b"red")
            | (b'h', b"mac")
            | (b'o', [b't', b'p', _])
            | (b'j', [b'w', b't', _])
            | (b'b', b"ear" | b"asi") => true,
            (b'p', [b'w', b'd', _] | [b'i', b'n', _]) | (b'c', b"ode") | (b'k', [b'e', b'y', _]) => is_word(),
            _ => false,
        };
        before = first;
        // An escape may stand for any letter, and slashes may be escaped.
        found || (first == b'\\' && matches!(second, b'u' | b'/'))
    }) || super::text::may_hold_login(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_by_their_words() {
        assert_eq!(words("X-Api-Key"), ["x", "api", "key"]);
        assert_eq!(words("XAPIKey"), ["xapi", "key"]);
        assert_eq!(words("idToken2"), ["id", "token", "2"]);
        assert_eq!(words("JWT"), ["jwt"]);
        assert!(words(&"aB".repeat(100)).len() <= MAX_WORDS);
    }

    #[test]
    fn what_is_secret_is_hidden_and_what_only_sounds_so_is_not() {
        for name in [
            "password",
            "userPassword",
            "DB_PASSWORD",
            "password2",
            "new-password",
            "passwordConfirmation",
            "pwd",
            "authToken",
            "idToken",
            "id_token",
            "access_token",
            "token",
            "csrfToken",
            "otp",
            "jwt",
            "JWT",
            "credential",
            "credentials",
            "awsCredentials",
            "sessionId",
            "session_id",
            "sessionid",
            "JSESSIONID",
            "api_key",
            "apiKey",
            "APIKEY",
            "x-api-key",
            "privateKey",
            "AccessKey",
            "client_secret",
            "secretKey",
            "Authorization",
            "Proxy-Authorization",
            "Cookie",
            "Set-Cookie",
            "x-hmac",
            "hmacAuthSecret",
            "passphrase",
            "passcode",
        ] {
            assert_eq!(says(name), Says::Secret, "{name}");
            assert!(may_hold_secret(format!("{{\"{name}\":1}}").as_bytes()), "{name}");
        }
        for name in [
            "key",
            "Key",
            "pin",
            "PIN",
            "pin_code",
            "cardPin",
            "signature",
            "X-Hub-Signature-256",
        ] {
            assert_eq!(says(name), Says::SecretUnlessEntry, "{name}");
            assert!(may_hold_secret(format!("{{\"{name}\":1}}").as_bytes()), "{name}");
        }
        assert_eq!(says("code"), Says::SecretIfItLooks);
        assert!(may_hold_secret(br#"{"code":1}"#));
        for name in [
            "secretary",
            "cookie_consent",
            "cookieConsent",
            "tokens",
            "max_tokens",
            "tokenType",
            "token_expires_in",
            "nextPageToken",
            "page_token",
            "password_changed_at",
            "passwordPolicy",
            "secretId",
            "author",
            "authority",
            "compass",
            "passenger",
            "monkey",
            "keyboard",
            "foreign_key",
            "sort_key",
            "shipping",
            "spinning",
            "session",
            "assignature",
            "postalCode",
            "tokenizer",
            "zipcode",
            "accessible",
        ] {
            assert_eq!(says(name), Says::Nothing, "{name}");
        }
    }

    #[test]
    fn every_word_passes_the_quick_test_alone_and_in_others() {
        let pairs = PAIRS.iter().map(|(first, second)| format!("{first}_{second}"));
        for word in SECRETS.iter().map(ToString::to_string).chain(pairs) {
            for name in [word.clone(), word.to_uppercase(), format!("my_{word}_2")] {
                assert!(may_hold_secret(format!("{{\"{name}\":1}}").as_bytes()), "{name}");
            }
        }
        assert!(may_hold_secret(br#"{"userPin":1}"#));
        assert!(may_hold_secret(br#"{"userPwd":1}"#));
    }
}
