//! Slows down guessing: after some failures a user name, or a client's network, must wait, twice as long each time.
//!
//! An attempt counts when it begins, so that many at once cannot outrun the count; success takes it back. Names that
//! do not exist are counted like those that do. A delay ends by itself and is not prolonged by attempts made in it, so
//! that nobody can lock another out for good.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use parking_lot::Mutex;

use crate::error::Reason;

/// Mistyping a few times costs nothing.
const FREE_PER_USER: u32 = 5;
/// A hospital behind one address has many people who mistype.
const FREE_PER_NETWORK: u32 = 100;
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Long enough to make guessing hopeless (1440 a day), short enough to wait for.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// After this long without a failure, all is forgotten.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Names and networks remembered: about 20 MiB. Who floods it with names is held back as a network.
const MAX_REMEMBERED: u64 = 100_000;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Suspect {
    User(String),
    Network(IpAddr),
}

#[derive(Default)]
struct Tally {
    failures: u32,
    last: Option<Instant>,
    blocked_until: Option<Instant>,
}

pub(crate) struct Throttle {
    tallies: Cache<Suspect, Arc<Mutex<Tally>>>,
}

/// An attempt that counts as failed unless it says otherwise.
#[must_use]
pub(crate) struct Attempt {
    user: Counted,
    network: Option<Counted>,
}

/// One attempt in a tally, with the delay that it brought about.
struct Counted {
    tally: Arc<Mutex<Tally>>,
    blocked_until: Option<Instant>,
}

impl Throttle {
    pub(crate) fn new() -> Self {
        Self { tallies: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_idle(MEMORY).build() }
    }

    pub(crate) fn admit(&self, user: &str, address: Option<IpAddr>, now: Instant) -> Result<Attempt, Reason> {
        let user = self.tally(Suspect::User(user.to_owned()));
        let network = address.and_then(network_of).map(|network| self.tally(Suspect::Network(network)));
        if user.lock().is_blocked(now) || network.as_ref().is_some_and(|tally| tally.lock().is_blocked(now)) {
            return Err(Reason::Throttled);
        }
        let user = Counted::new(user, FREE_PER_USER, now);
        Ok(Attempt { user, network: network.map(|tally| Counted::new(tally, FREE_PER_NETWORK, now)) })
    }

    fn tally(&self, suspect: Suspect) -> Arc<Mutex<Tally>> {
        self.tallies.get_with(suspect, Arc::default)
    }
}

impl Attempt {
    /// The user's failures are forgotten; the network's stay, or one good account would cover guessing at others.
    pub(crate) fn succeeded(self) {
        *self.user.tally.lock() = Tally::default();
        self.network.into_iter().for_each(Counted::take_back);
    }

    /// The password was not looked at after all, so nothing was learned by the attempt.
    pub(crate) fn abandoned(self) {
        self.user.take_back();
        self.network.into_iter().for_each(Counted::take_back);
    }
}

impl Counted {
    fn new(tally: Arc<Mutex<Tally>>, free: u32, now: Instant) -> Self {
        let blocked_until = tally.lock().count(free, now);
        Self { tally, blocked_until }
    }

    /// Nothing was blocked when the attempt was admitted, so its delay can go unless a later failure has set another.
    fn take_back(self) {
        let mut tally = self.tally.lock();
        tally.failures = tally.failures.saturating_sub(1);
        if tally.blocked_until == self.blocked_until {
            tally.blocked_until = None;
        }
    }
}

impl Tally {
    fn is_blocked(&self, now: Instant) -> bool {
        self.blocked_until.is_some_and(|until| now < until)
    }

    /// Returns until when the failure, if it stays one, holds back.
    fn count(&mut self, free: u32, now: Instant) -> Option<Instant> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= MEMORY) {
            *self = Self::default();
        }
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        if let Some(over) = self.failures.checked_sub(free + 1) {
            let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(over)).min(LONGEST_DELAY);
            self.blocked_until = Some(now + delay);
        }
        self.blocked_until
    }
}

/// An IPv4 address, or the /64 that an IPv6 client can choose addresses from. Loopback is a proxy or a tunnel that
/// stands for many, and is not held back.
fn network_of(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V6(v6) => Some(IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into())),
        v4 => Some(v4),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// Tries with a wrong password; whether the password was looked at.
    fn tries(throttle: &Throttle, user: &str, address: Option<IpAddr>, now: Instant) -> bool {
        throttle.admit(user, address, now).is_ok()
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn delays_double_and_end() {
        let (throttle, mut now) = (Throttle::new(), Instant::now());
        for _ in 0..FREE_PER_USER {
            assert!(tries(&throttle, "ana", None, now));
        }
        for delay_s in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(tries(&throttle, "ana", None, now), "before {delay_s} s");
            assert!(!tries(&throttle, "ana", None, now));
            assert!(!tries(&throttle, "ana", None, now + Duration::from_millis(delay_s * 1000 - 1)));
            now += Duration::from_secs(delay_s);
        }
        assert!(tries(&throttle, "rui", None, now), "another user is not held back");
        now += MEMORY;
        for _ in 0..FREE_PER_USER {
            assert!(tries(&throttle, "ana", None, now));
        }
    }

    #[test]
    fn success_forgives_the_user() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for _ in 0..100 {
            for _ in 0..FREE_PER_USER {
                assert!(tries(&throttle, "ana", None, now));
            }
            throttle.admit("ana", None, now).unwrap().succeeded();
        }
    }

    #[test]
    fn a_network_is_held_back_whatever_names_it_tries() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 0..=FREE_PER_NETWORK {
            assert!(tries(&throttle, &format!("u{n}"), address("2001:db8:1:2::1"), now), "{n}");
        }
        assert!(!tries(&throttle, "fresh", address("2001:db8:1:2:ffff::9"), now), "its neighbour in the /64");
        assert!(tries(&throttle, "fresh", address("2001:db8:1:3::1"), now));
        let later = now + FIRST_DELAY;
        throttle.admit("mallory", address("2001:db8:1:2::1"), later).unwrap().succeeded();
        assert!(tries(&throttle, "next", address("2001:db8:1:2::1"), later), "success takes back its own count");
        assert!(!tries(&throttle, "next", address("2001:db8:1:2::1"), later), "and no more");
    }

    #[test]
    fn loopback_stands_for_many() {
        assert_eq!(network_of("127.0.0.1".parse().unwrap()), None);
        assert_eq!(network_of("::1".parse().unwrap()), None);
        assert_eq!(network_of("::ffff:127.0.0.1".parse().unwrap()), None);
        assert_eq!(network_of("::ffff:10.1.2.3".parse().unwrap()), address("10.1.2.3"));
        assert_eq!(network_of("2001:db8:1:2:3:4:5:6".parse().unwrap()), address("2001:db8:1:2::"));
    }

    #[test]
    fn attempts_at_once_are_counted_before_they_end() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let under_way: Vec<_> = (0..50).filter_map(|_| throttle.admit("ana", None, now).ok()).collect();
        assert_eq!(under_way.len() as u32, FREE_PER_USER + 1);
        for attempt in under_way {
            attempt.abandoned();
        }
        assert!(tries(&throttle, "ana", None, now));
    }
}
