//! Rounds: all witnesses are asked for the same checkpoint, so that their signatures stand under one.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::tlog::{Cosignature, cosignature, witness};
use hyper::StatusCode;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    WitnessConfig, WitnessState,
    post::{post, way},
};
use crate::{
    log::{Log, SignedCheckpoint},
    net::Http,
};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a witness that does not cosign is left alone.
const REST: Duration = Duration::from_secs(10);

/// How often a witness may tell that it is further than we thought, in one round.
const CORRECTIONS: usize = 2;

/// What we remember of one witness between the rounds.
struct Watcher {
    /// Records of the tree that it cosigned last, as far as is known.
    known: u64,
    /// Until when it is left alone.
    rests: Option<Instant>,
    /// The way to it, once there is one.
    http: Option<Http>,
}

/// What one witness answered.
struct Asked {
    place: usize,
    known: u64,
    http: Option<Http>,
    outcome: Result<Cosignature, String>,
}

impl Log {
    /// Asks the witnesses for cosignatures of each new checkpoint, and for a new one of the same after `refresh`, until `ends`.
    pub async fn keep_cosigned(self: Arc<Self>, refresh: Duration, ends: CancellationToken) {
        let new = |witness: &WitnessState| Watcher { known: witness.size, rests: None, http: None };
        let mut watchers: Vec<Watcher> = self.state.borrow().witnesses.iter().map(new).collect();
        let mut news = self.state();
        let mut asked: Option<(u64, Instant)> = None;
        while !ends.is_cancelled() && !self.witnesses.is_empty() {
            let newest = news.borrow_and_update().newest.clone();
            let is_due = |newest: &SignedCheckpoint| {
                asked.is_none_or(|(size, when)| size != newest.checkpoint.size || when.elapsed() >= refresh)
                    || watchers
                        .iter()
                        .filter_map(|watcher| watcher.rests)
                        .any(|until| until <= Instant::now())
            };
            // There is nothing to witness in an empty log.
            let newest = newest.filter(|newest| newest.checkpoint.size > 0 && is_due(newest));
            if let Some(newest) = newest {
                asked = Some((newest.checkpoint.size, Instant::now()));
                self.round(&newest, &mut watchers).await;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = ends.cancelled() => {}
            }
        }
    }

    async fn round(&self, signed: &Arc<SignedCheckpoint>, watchers: &mut [Watcher]) {
        let mut asking = JoinSet::new();
        for (place, (witness, watcher)) in self.witnesses.iter().zip(watchers.iter_mut()).enumerate() {
            if watcher.rests.is_some_and(|until| until > Instant::now()) {
                continue;
            }
            let (ledger, witness) = (Arc::clone(&self.ledger), witness.clone());
            let (signed, mut known, kept) = (Arc::clone(signed), watcher.known, watcher.http.take());
            asking.spawn(async move {
                let mut http = match kept.map_or_else(|| way(&witness), Ok) {
                    Ok(http) => http,
                    Err(why) => return Asked { place, known, http: None, outcome: Err(why) },
                };
                let outcome = ask(ledger.as_ref(), &witness, &mut http, &signed, &mut known).await;
                Asked { place, known, http: Some(http), outcome }
            });
        }
        let mut lines = BTreeMap::new();
        while let Some(asked) = asking.join_next().await {
            let Ok(Asked { place, known, http, outcome }) = asked else { continue };
            let rests = outcome.is_err().then(|| Instant::now() + REST);
            watchers[place] = Watcher { known, rests, http };
            let trouble = outcome.as_ref().err().cloned();
            if let Ok(cosignature) = outcome {
                lines.insert(place, cosignature);
            }
            self.publish(signed, &lines, (place, trouble));
        }
        self.state.send_modify(|state| state.collected = state.collected.max(signed.checkpoint.size));
        let Some(cosigned) = self.state.borrow().cosigned.clone() else { return };
        if cosigned.checkpoint == signed.checkpoint
            && !lines.is_empty()
            && let Err(error) = self.keep(cosigned.checkpoint.size, cosigned.note.clone()).await
        {
            tracing::warn!(%error, "cosignatures are not kept");
        }
    }

    /// Lets everybody see what there is by now, and the operator what changed.
    fn publish(
        &self,
        signed: &SignedCheckpoint,
        lines: &BTreeMap<usize, Cosignature>,
        (place, trouble): (usize, Option<String>),
    ) {
        let text: Vec<&str> = lines.values().map(|cosignature| cosignature.line.as_str()).collect();
        // What we have signed ourselves is a note.
        let note = cosignature::with_cosignatures(&signed.note, &text).ok();
        self.state.send_modify(|state| {
            if let (Some(note), false) = (note, lines.is_empty()) {
                state.cosigned = Some(Arc::new(SignedCheckpoint { note, ..signed.clone() }));
            }
            let Some(witness) = state.witnesses.get_mut(place) else { return };
            if let Some(cosignature) = lines.get(&place) {
                witness.size = signed.checkpoint.size;
                witness.time = witness.time.max(Some(cosignature.time));
            }
            if witness.trouble != trouble {
                match &trouble {
                    Some(why) => tracing::error!(witness = %witness.name, "it does not cosign: {why}"),
                    None => tracing::info!(witness = %witness.name, "it cosigns again"),
                }
                witness.trouble = trouble;
            }
        });
    }
}

/// Asks one witness for its cosignature. `known` is the size of the tree that it cosigned last, and what it says of that.
async fn ask(
    ledger: &dyn crate::ledger::Ledger,
    witness: &WitnessConfig,
    http: &mut Http,
    signed: &SignedCheckpoint,
    known: &mut u64,
) -> Result<Cosignature, String> {
    let size = signed.checkpoint.size;
    let plain = plain(&signed.note);
    for _ in 0..=CORRECTIONS {
        let old = *known;
        let proof = ledger.consistency(old, size).await.map_err(|error| error.0)?;
        let request = witness::AddCheckpoint { old, proof, checkpoint: plain.clone() };
        let (status, answer) = post(http, &witness.url, request.to_string()).await?;
        match status {
            StatusCode::OK => {
                let cosigned = witness.key.cosigned(&format!("{plain}{answer}"));
                let cosigned = cosigned.map_err(|flaw| format!("its answer makes no sense: {flaw}"))?;
                *known = size;
                return cosigned.ok_or_else(|| {
                    "its answer has no right signature by the key that is configured".to_owned()
                });
            }
            StatusCode::CONFLICT => match witness::size(&answer) {
                Ok(seen) if seen > size => {
                    *known = 0;
                    return Err(format!(
                        "it has cosigned {seen} records of this log, and we have signed for only {size}: an old copy of the \
                         ledger may be in its place"
                    ));
                }
                Ok(seen) if seen == old => {
                    return Err(format!("it has cosigned another log of {seen} records under this name"));
                }
                Ok(seen) => *known = seen,
                Err(_) => return Err("it does not tell how many records it has seen".to_owned()),
            },
            StatusCode::UNPROCESSABLE_ENTITY => {
                return Err(format!(
                    "it says that this log does not begin with the {old} records that it has cosigned"
                ));
            }
            StatusCode::NOT_FOUND => {
                return Err("it does not watch this log: give it keys/log.pub".to_owned());
            }
            StatusCode::FORBIDDEN => return Err("it knows another key of this log".to_owned()),
            status => return Err(format!("it answers with HTTP status {status}")),
        }
    }
    Err("it tells another size whenever it is asked".to_owned())
}

/// A note without the cosignatures of an earlier round: they are no business of the next one.
fn plain(note: &str) -> String {
    let Some(end) = note.rfind("\n\n") else { return note.to_owned() };
    let (text, signatures) = note.split_at(end + 2);
    // Our own signature is the first.
    let own = signatures.split_inclusive('\n').next().unwrap_or_default();
    format!("{text}{own}")
}
