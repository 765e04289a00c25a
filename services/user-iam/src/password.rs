//! Password hashes: Argon2id with the library's defaults (19 MiB, 2 passes), a few at a time, off the request threads.

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use flowmate_common::{Failure, Kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Evaluations at once for each core; each takes 19 MiB.
const AT_ONCE_PER_CORE: usize = 2;
/// Evaluations that wait for their turn; more are refused for now.
const WAITING: usize = 64;

pub(crate) struct Passwords {
    /// Those that are evaluated.
    room: Arc<Semaphore>,
    /// Those that are evaluated and those that wait.
    queue: Arc<Semaphore>,
}

/// A place in the queue.
pub(crate) struct Turn {
    room: Arc<Semaphore>,
    place: OwnedSemaphorePermit,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of(cores * AT_ONCE_PER_CORE, WAITING)
    }

    fn of(at_once: usize, waiting: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(at_once)),
            queue: Arc::new(Semaphore::new(at_once + waiting)),
        }
    }

    /// A place in the queue, if there is one.
    pub(crate) fn queue(&self) -> Result<Turn, Failure> {
        let place = Arc::clone(&self.queue).try_acquire_owned();
        let place =
            place.map_err(|_| Failure::new(Kind::Unavailable, "too many passwords wait for their turn"))?;
        Ok(Turn {
            room: Arc::clone(&self.room),
            place,
        })
    }

    /// The PHC string of `password`.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Failure> {
        let work = move || {
            let hash = Argon2::default()
                .hash_password(password.as_bytes())
                .map_err(Failure::internal)?;
            Ok(hash.to_string())
        };
        self.queue()?.run(work).await
    }
}

impl Turn {
    /// Whether `password` is the one. Where there is no hash the same work is done for nothing, so that the time does
    /// not tell whether a user exists.
    pub(crate) async fn verify(self, password: String, hash: Option<String>) -> Result<bool, Failure> {
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
        self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let Self { room, place } = self;
        let room = room.acquire_owned().await.map_err(Failure::internal)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            // Who does not wait for the answer any more holds room until the work is done.
            drop((room, place));
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
        let verify = async |password: &str, hash: Option<&String>| {
            let turn = passwords.queue().unwrap();
            turn.verify(password.into(), hash.cloned()).await.unwrap()
        };
        assert!(verify("right", Some(&hash)).await);
        assert!(!verify("wrong", Some(&hash)).await);
        assert!(!verify("right", None).await);
        assert_ne!(generate(), generate());
    }

    #[tokio::test]
    async fn those_that_wait_are_bounded_and_more_are_refused_for_now() {
        let passwords = Passwords::of(1, 2);
        let mut turns: Vec<Turn> = (0..3).map(|_| passwords.queue().unwrap()).collect();
        let refused = passwords.queue().err().unwrap();
        assert_eq!(refused.kind, Kind::Unavailable);
        turns.pop();
        passwords.hash("x".into()).await.unwrap();
        assert!(passwords.queue().is_ok());
    }
}
