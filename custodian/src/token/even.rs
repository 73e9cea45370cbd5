//! Law 5 in time: when a wrapped key is rejected, how long that took tells next to nothing.
//!
//! Whether the padding was bad or what was in it, we do the same (see the worker). The module does not: SoftHSM takes 12 to
//! 20 µs longer for one than for the other. A rejection leaves only at full steps of time, which are much longer than that.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::TokenError;

/// Longer than a rejection usually takes.
pub(super) const STEP: Duration = Duration::from_millis(25);

/// Waits until the next full step since `begun`, if this is a rejection.
pub(super) async fn even_out<T>(begun: Instant, outcome: &Result<T, TokenError>) {
    if let Some(time) = leaves_at(outcome, begun, Instant::now()) {
        sleep_until(time).await;
    }
}

/// `None`: now.
fn leaves_at<T>(outcome: &Result<T, TokenError>, begun: Instant, now: Instant) -> Option<Instant> {
    if !matches!(outcome, Err(TokenError::Rejected)) {
        return None;
    }
    let steps = now.duration_since(begun).as_nanos() / STEP.as_nanos() + 1;
    Some(begun + STEP * u32::try_from(steps).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_leave_at_full_steps_and_nothing_else_waits() {
        let begun = Instant::now();
        let leaves = |outcome: Result<(), TokenError>, took| {
            let time = leaves_at(&outcome, begun, begun + Duration::from_millis(took))?;
            Some((time - begun).as_millis())
        };
        for (took, step) in [(0, 25), (1, 25), (24, 25), (25, 50), (26, 50), (99, 100)] {
            assert_eq!(leaves(Err(TokenError::Rejected), took), Some(step));
        }
        assert_eq!(leaves(Ok(()), 1), None);
        assert_eq!(leaves(Err(TokenError::Busy), 1), None);
    }
}
