//! What the signed side of the log promises, with a real ledger and a token in memory.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyWrapping, WrappedKey},
    sign::DigestToSign,
    tlog::merkle,
};
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    authority::{Permit, Standing},
    custody::Withheld,
    ledger::{Grant, Included, Outcome, Release, SqliteLedger, contract::world},
    token::{Health, KeyDescription, KeyTemplate, Survey, TokenKey, memory::MemoryToken},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A token that can be taken away.
pub(super) struct Away {
    token: MemoryToken,
    away: AtomicBool,
}

#[async_trait]
impl Token for Away {
    async fn unwrap(&self, _: Permit, _: &WrappedKey, _: Instant) -> Result<Withheld<FileKey>, TokenError> {
        Err(TokenError::NotPermitted)
    }

    async fn sign_digest(
        &self,
        _: Permit,
        _: &DigestToSign,
        _: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError> {
        Err(TokenError::NotPermitted)
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(TokenError::Unavailable("it was taken away".to_owned()));
        }
        self.token.sign(key, message, deadline).await
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        self.token.generate(template, deadline).await
    }

    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError> {
        self.token.destroy(key, deadline).await
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError> {
        self.token.describe(key, deadline).await
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError> {
        self.token.survey(deadline).await
    }

    fn health(&self) -> Health {
        self.token.health()
    }
}

pub(super) struct Scene {
    pub(super) directory: tempfile::TempDir,
    pub(super) ledger: Arc<SqliteLedger>,
    token: Arc<Away>,
    pub(super) log: Arc<Log>,
    ends: CancellationToken,
    signing: tokio::task::JoinHandle<()>,
}

impl Scene {
    /// A log that is being signed.
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token = MemoryToken::new(KeyWrapping::OaepSha256);
        let token = Arc::new(Away { token, away: AtomicBool::new(false) });
        let verifier =
            make_log_key(token.as_ref(), "*.custodian.example", Instant::now() + PATIENCE).await.unwrap();
        Self::in_directory(directory, token, verifier).await
    }

    async fn in_directory(directory: tempfile::TempDir, token: Arc<Away>, verifier: VerifierKey) -> Self {
        Self::watched(directory, token, verifier, Vec::new()).await
    }

    /// The same log again, with these witnesses.
    pub(super) async fn watched_by(self, witnesses: Vec<WitnessConfig>) -> Self {
        let (directory, token, verifier) = self.end().await;
        Self::watched(directory, token, verifier, witnesses).await
    }

    async fn watched(
        directory: tempfile::TempDir,
        token: Arc<Away>,
        verifier: VerifierKey,
        witnesses: Vec<WitnessConfig>,
    ) -> Self {
        let ledger = SqliteLedger::open(&directory.path().join("ledger.db"), world::options()).unwrap();
        let ledger = Arc::new(ledger);
        let log = Log::open(ledger.clone(), token.clone(), verifier, PATIENCE).await.unwrap();
        let (log, ends) = (Arc::new(log.watched_by(witnesses)), CancellationToken::new());
        let signing = tokio::spawn(Arc::clone(&log).keep_signing(ends.clone()));
        Self { directory, ledger, token, log, ends, signing }
    }

    /// Ends as a custodian does, and starts again.
    pub(super) async fn restart(self) -> Self {
        let (directory, token, verifier) = self.end().await;
        Self::in_directory(directory, token, verifier).await
    }

    async fn end(self) -> (tempfile::TempDir, Arc<Away>, VerifierKey) {
        let Self { directory, ledger, token, log, ends, signing } = self;
        ends.cancel();
        signing.await.unwrap();
        let verifier = log.verifier().clone();
        drop((ledger, log));
        (directory, token, verifier)
    }

    pub(super) async fn settle(&self) -> u64 {
        self.release().await.sequence()
    }

    pub(super) async fn release(&self) -> Release {
        let grant = Grant { standing: Standing::default(), change: None };
        let attempt = self.ledger.begin(world::intent("Unwrap"));
        let settled = self.ledger.settle(attempt, Outcome::Granted(grant)).await;
        settled.unwrap_or_else(|denial| panic!("{denial}")).0
    }

    pub(super) async fn until(&self, wanted: impl FnMut(&LogState) -> bool) -> LogState {
        let mut state = self.log.state();
        let state = tokio::time::timeout(PATIENCE, state.wait_for(wanted)).await.unwrap().unwrap();
        state.clone()
    }

    pub(super) async fn covered(&self, size: u64) -> Arc<SignedCheckpoint> {
        let covers = |state: &LogState| state.newest.as_ref().is_some_and(|it| it.checkpoint.size >= size);
        self.until(covers).await.newest.unwrap()
    }
}

#[tokio::test]
async fn every_record_is_covered_by_a_checkpoint_that_opens_with_the_public_key() {
    let scene = Scene::new().await;
    let verifier: VerifierKey = scene.log.verifier().to_string().parse().unwrap();
    assert!(verifier.name().starts_with("custodian.example/log-"), "{verifier}");
    let mut before: Option<Checkpoint> = None;
    for _ in 0..5 {
        let sequence = scene.settle().await;
        let signed = scene.covered(sequence).await;
        let checkpoint = Checkpoint::open(&signed.note, &verifier).unwrap();
        assert_eq!(checkpoint, signed.checkpoint);
        let entry = scene.ledger.entries(sequence - 1, 1).await.unwrap().remove(0);
        let Included { proof, .. } =
            scene.ledger.inclusion(sequence - 1, checkpoint.size).await.unwrap().unwrap();
        let leaf = custodian_proto::tlog::Hash::of_entry(&entry);
        merkle::verify_inclusion(leaf, sequence - 1, checkpoint.size, &checkpoint.root, &proof).unwrap();
        assert!(before.is_none_or(|before| before.size < checkpoint.size));
        before = Some(checkpoint);
    }
}

#[tokio::test]
async fn while_the_token_is_away_records_go_on_and_checkpoints_follow_when_it_is_back() {
    let scene = Scene::new().await;
    scene.covered(scene.settle().await).await;
    scene.token.away.store(true, Ordering::SeqCst);
    let sequence = scene.settle().await;
    let state = scene.until(|state| state.trouble.is_some()).await;
    assert!(state.trouble.unwrap().contains("taken away"));
    assert!(state.newest.unwrap().checkpoint.size < sequence);
    let later = scene.settle().await;
    scene.token.away.store(false, Ordering::SeqCst);
    scene.covered(later).await;
    scene.until(|state| state.trouble.is_none()).await;
}

#[tokio::test]
async fn the_records_until_the_end_are_signed_for() {
    let scene = Scene::new().await;
    for _ in 0..20 {
        scene.settle().await;
    }
    scene.ends.cancel();
    scene.covered(20).await;
}

#[tokio::test]
async fn a_tree_that_was_rewritten_is_never_signed() {
    let scene = Scene::new().await;
    scene.settle().await;
    let signed = scene.covered(scene.settle().await).await;
    let other = Connection::open(scene.directory.path().join("ledger.db")).unwrap();
    let forged = custodian_proto::tlog::Hash::of_entry(b"forged");
    let forged = [forged.as_bytes().as_slice(), forged.as_bytes()].concat();
    other.execute("UPDATE tiles SET hashes = ? WHERE level = 0", [forged]).unwrap();
    // The commit that comes writes what the custodian knows, not what it finds.
    let sequence = scene.settle().await;
    let newer = scene.covered(sequence).await;
    let proof = consistency(&scene, signed.checkpoint.size, newer.checkpoint.size).await;
    let (old, new) = (&signed.checkpoint, &newer.checkpoint);
    merkle::verify_consistency((old.size, &old.root), (new.size, &new.root), &proof).unwrap();

    other.execute("UPDATE tiles SET hashes = ? WHERE level = 0", [vec![7_u8; 32 * 3]]).unwrap();
    let signed = scene.log.sign_newest().await;
    assert_eq!(signed, Err(CheckpointError::Rewritten { signed: sequence, now: sequence }));
}

async fn consistency(scene: &Scene, old: u64, new: u64) -> Vec<custodian_proto::tlog::Hash> {
    use custodian_proto::tlog::{Flaw, Tile, nodes::Nodes};
    let hashes = scene.ledger.tile(Tile { level: 0, index: 0 }).await.unwrap();
    let mut nodes = Nodes::new(|_| Ok::<_, Flaw>(hashes.clone()));
    merkle::consistency(old, new, &mut |node| nodes.hash(node)).unwrap()
}

#[tokio::test]
async fn a_log_key_that_the_token_does_not_serve_is_named() {
    let scene = Scene::new().await;
    let elsewhere = MemoryToken::new(KeyWrapping::OaepSha256);
    let elsewhere = make_log_key(&elsewhere, "elsewhere.example", Instant::now() + PATIENCE).await.unwrap();
    let opened = Log::open(scene.ledger.clone(), scene.token.clone(), elsewhere, PATIENCE).await;
    let Err(error) = opened else { panic!("opened with a key that is not there") };
    assert!(matches!(error, LogKeyError::NotServed(_)), "{error}");
    assert!(error.to_string().contains("elsewhere.example/log-"), "{error}");
}

#[tokio::test]
async fn a_log_that_has_an_ecdsa_key_keeps_it() {
    let scene = Scene::new().await;
    assert!(scene.log.verifier().spki().len() == 44, "Ed25519, as the token can");
    let token = MemoryToken::new(KeyWrapping::OaepSha256);
    let template = KeyTemplate { label: "log".to_owned(), kind: crate::token::KeyKind::EcdsaP256Sign };
    let key = token.generate(template, Instant::now() + PATIENCE).await.unwrap();
    let verifier = VerifierKey::of_spki("old.example/log-1", &key.spki).unwrap();
    let token = Arc::new(Away { token, away: AtomicBool::new(false) });
    let scene = Scene::in_directory(tempfile::tempdir().unwrap(), token, verifier.clone()).await;
    let receipt = scene.log.receipt(scene.settle().await).await.unwrap_or_else(|denial| panic!("{denial}"));
    assert_eq!(receipt.verify(&verifier).unwrap().origin, "old.example/log-1");
    let scene = scene.restart().await;
    scene.covered(scene.settle().await).await;
}

#[tokio::test]
async fn a_restart_goes_on_from_the_checkpoint_that_was_kept() {
    let scene = Scene::new().await;
    for _ in 0..3 {
        scene.settle().await;
    }
    let scene = scene.restart().await;
    let kept = scene.log.state().borrow().newest.clone().unwrap();
    assert_eq!((kept.checkpoint.size, kept.time), (3, None));
    let newer = scene.covered(scene.settle().await).await;
    assert_eq!(newer.checkpoint.size, 4);
}

#[tokio::test]
async fn a_receipt_waits_for_its_checkpoint_and_proves_its_record() {
    let scene = Scene::new().await;
    for sequence in 1..=5 {
        assert_eq!(scene.settle().await, sequence);
        let receipt = scene.log.receipt(sequence).await.unwrap_or_else(|denial| panic!("{denial}"));
        let receipt: custodian_proto::tlog::Receipt = receipt.to_string().parse().unwrap();
        assert!(receipt.verify(scene.log.verifier()).unwrap().size >= sequence);
        assert_eq!(receipt.entry, scene.ledger.entries(sequence - 1, 1).await.unwrap()[0]);
    }
    for no_record in [0, 6, u64::MAX] {
        assert_eq!(scene.log.receipt(no_record).await.err().unwrap().code(), "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_record_that_was_changed_gets_no_receipt() {
    let scene = Scene::new().await;
    scene.covered(scene.settle().await).await;
    let other = Connection::open(scene.directory.path().join("ledger.db")).unwrap();
    other
        .execute_batch("DROP TRIGGER records_are_not_changed; UPDATE records SET entry = x'00' WHERE seq = 1")
        .unwrap();
    let denial = scene.log.receipt(1).await.err().unwrap();
    assert!(denial.detail().contains("record 1 of the ledger was changed"), "{}", denial.detail());
}
