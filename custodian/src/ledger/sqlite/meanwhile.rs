//! Telling that something goes on: nobody may take a start that takes long for one that hangs.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// Does `work`, and calls `tell` with how long that has taken so far, every `period` while it lasts.
pub(super) fn meanwhile<R>(
    period: Duration,
    mut tell: impl FnMut(Duration) + Send,
    work: impl FnOnce() -> R,
) -> R {
    let (working, ended) = channel::<()>();
    let begun = Instant::now();
    thread::scope(move |scope| {
        let telling = move || {
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                tell(begun.elapsed());
            }
        };
        // Without a thread it is done all the same.
        drop(thread::Builder::new().name("meanwhile".to_owned()).spawn_scoped(scope, telling));
        let done = work();
        drop(working);
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_told_more_than_once_until_it_ends() {
        let (told, heard) = channel();
        let work = || {
            let first = heard.recv().unwrap();
            assert!(heard.recv().unwrap() > first);
            7
        };
        assert_eq!(meanwhile(Duration::from_millis(1), |so_far| told.send(so_far).unwrap(), work), 7);
        // It would not come back if it told on.
        assert_eq!(meanwhile(Duration::from_secs(3_600), |_| panic!("told"), || 8), 8);
    }
}
