//! Password hashes: Argon2id with the library's defaults (19 MiB, 2 passes), a few at a time, off the request threads.

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use flowmate_common::Failure;
use tokio::sync::Semaphore;

/// Each hash takes 19 MiB: this bounds the memory of many logins at once.
const AT_ONCE: usize = 4;

pub(crate) struct Passwords {
    room: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self {
            room: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The PHC string of `password`.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Failure> {
        self.run(move || {
            let hash = Argon2::default()
                .hash_password(password.as_bytes())
                .map_err(Failure::internal)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether `password` is the one. Where there is no hash the same work is done for nothing, so that the time does
    /// not tell whether a user exists.
    pub(crate) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Failure> {
        self.run(move || {
            let Some(hash) = hash else {
                let _ = Argon2::default().hash_password(password.as_bytes());
                return Ok(false);
            };
            let hash = PasswordHash::new(&hash).map_err(Failure::internal)?;
            Ok(Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let room = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(Failure::internal)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(room);
            result
        });
        done.await.map_err(Failure::internal)?
    }
}

/// A password nobody has to make up: 24 characters without look-alikes, about 137 bits.
pub(crate) fn generate() -> String {
    const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    (0..24)
        .filter_map(|_| LETTERS.get(rand::random_range(0..LETTERS.len())))
        .map(|letter| char::from(*letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_verifies() {
        let passwords = Passwords::new();
        let hash = passwords.hash("right".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(
            passwords
                .verify("right".into(), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(!passwords.verify("wrong".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("right".into(), None).await.unwrap());
        assert_ne!(generate(), generate());
    }
}
