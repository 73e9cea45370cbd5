//! Load: many callers that unwrap, and remember every key they were given.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use sha2::{Digest, Sha256};
use tokio::{sync::watch, task::JoinSet};

use crate::{Dev, Person, Wire, reason, sealed_key};

/// One key that a caller received.
#[derive(Clone, Debug)]
pub struct Unwrapped {
    pub request_id: String,
    /// When it was asked for.
    pub asked: Instant,
    /// SHA-256 of the wrapped key, hex.
    pub wrapped_sha256: String,
}

/// Callers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    received: watch::Receiver<usize>,
    failed: Arc<Mutex<Vec<String>>>,
    callers: JoinSet<Vec<Unwrapped>>,
}

impl Load {
    /// `callers` callers, all on the operator's one session, until stopped or until the connection is gone for good.
    /// Calls that fail are simply made again, but for those beyond a budget: a load wants a custodian without.
    pub async fn start(dev: &Dev, callers: usize) -> Self {
        let wire = Wire::login(dev, Person::Operator).await;
        Self::start_on(wire, dev.certificate(), callers)
    }

    /// As [`Load::start`], on this session; to the key of this certificate.
    pub fn start_on(wire: Wire, certificate: PathBuf, callers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (count, received) = watch::channel(0);
        let failed = Arc::default();
        let mut set = JoinSet::new();
        for _ in 0..callers {
            set.spawn(call(
                wire.clone(),
                certificate.clone(),
                Arc::clone(&stop),
                count.clone(),
                Arc::clone(&failed),
            ));
        }
        Self { stop, received, failed, callers: set }
    }

    /// Waits until this many keys were received in all.
    pub async fn received(&mut self, keys: usize) {
        self.received.wait_for(|count| *count >= keys).await.unwrap();
    }

    /// How many keys were received so far.
    pub fn count(&self) -> usize {
        *self.received.borrow()
    }

    /// What the calls that failed so far were told.
    pub fn failures(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }

    /// Ends the load. Every key that any caller received.
    pub async fn stop(mut self) -> Vec<Unwrapped> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        while let Some(received) = self.callers.join_next().await {
            all.extend(received.unwrap());
        }
        all
    }
}

async fn call(
    wire: Wire,
    certificate: PathBuf,
    stop: Arc<AtomicBool>,
    count: watch::Sender<usize>,
    failed: Arc<Mutex<Vec<String>>>,
) -> Vec<Unwrapped> {
    let mut received = Vec::new();
    let mut file_key = [0; 32];
    while !stop.load(Ordering::SeqCst) {
        aws_lc_rs::rand::fill(&mut file_key).unwrap();
        let (key, wrapped) = sealed_key(&certificate, &file_key);
        let wrapped_sha256 = hex::encode(Sha256::digest(&wrapped));
        let asked = Instant::now();
        match wire.unwrap(&key, wrapped).await {
            Ok(answer) => {
                assert_eq!(answer.file_key, file_key, "a wrong key was returned");
                received.push(Unwrapped { request_id: answer.request_id, asked, wrapped_sha256 });
                count.send_modify(|count| *count += 1);
            }
            // Refused or gone: let others run before asking again.
            Err(status) => {
                assert!(
                    reason(&status) != "BUDGET_EXHAUSTED",
                    "a load on a custodian with budgets: {status:?}"
                );
                failed.lock().unwrap().push(format!("{:?}: {}", status.code(), status.message()));
                tokio::task::yield_now().await;
            }
        }
    }
    received
}
