//! What the second place promises, with a real ledger, a token in memory and a folder that comes and goes.

use std::{fs, path::Path};

use custodian_proto::tlog::{
    Checkpoint, Hash, Tile,
    tiles::{self, Edge, WIDTH, bundle_path},
};
use tokio_util::sync::CancellationToken;

use super::{super::tests::Scene, *};
use crate::ledger::Ledger as _;

const PATIENCE: Duration = Duration::from_secs(60);

/// How long a release waits where it is to be refused.
const SOON: Duration = Duration::from_millis(200);

/// A log with a second place in the folder `copy`.
struct Copied {
    scene: Scene,
    ends: CancellationToken,
    copying: Copying,
    second: SecondPlace,
    state: watch::Receiver<CopyState>,
}

fn folder(scene: &Scene) -> PathBuf {
    scene.directory.path().join("copy")
}

fn config(scene: &Scene) -> CopyConfig {
    CopyConfig { place: Place::Folder(folder(scene)), on_failure: OnFailure::Require }
}

async fn open(scene: &Scene) -> Result<Copier, CopyError> {
    Copier::open(scene.ledger.clone(), scene.log.clone(), config(scene)).await
}

impl Copied {
    async fn new() -> Self {
        let scene = Scene::new().await;
        fs::create_dir(scene.directory.path().join("copy")).unwrap();
        Self::of(scene, OnFailure::Require, PATIENCE).await
    }

    async fn of(scene: Scene, on_failure: OnFailure, patience: Duration) -> Self {
        let copier = open(&scene).await.unwrap_or_else(|error| panic!("{error}"));
        let (second, state) = (SecondPlace::required(&copier, on_failure, patience), copier.state());
        let ends = CancellationToken::new();
        let copying = copier.start(ends.clone()).unwrap();
        Self { scene, ends, copying, second, state }
    }

    /// Ends as a custodian does, when all of it is signed for.
    async fn end(self) -> Scene {
        let Self { scene, ends, copying, .. } = self;
        let last = *scene.ledger.last_sequence().borrow();
        scene.covered(last).await;
        ends.cancel();
        copying.end().await;
        scene
    }

    async fn until(&mut self, wanted: impl FnMut(&CopyState) -> bool) -> CopyState {
        tokio::time::timeout(PATIENCE, self.state.wait_for(wanted)).await.unwrap().unwrap().clone()
    }

    async fn confirm(&self) -> Result<u64, Fault> {
        let release = self.scene.release().await;
        Ok(self.second.confirm(release, self.second.deadline()).await?.sequence())
    }

    fn admits(&self) -> Result<(), Fault> {
        self.second.admits(*self.scene.ledger.last_sequence().borrow())
    }
}

/// The folder is the ledger's log, and each file that tlog-tiles asks for is there.
async fn is_whole(scene: &Scene) -> Checkpoint {
    let folder = folder(scene);
    let note = fs::read_to_string(folder.join("checkpoint")).unwrap();
    let checkpoint = Checkpoint::open(&note, scene.log.verifier()).unwrap();
    let mut edge = Edge::default();
    for tile in Tile::all(checkpoint.size) {
        let width = tile.width(checkpoint.size);
        let hashes = tiles::hashes(&fs::read(folder.join(tile.path(width))).unwrap()).unwrap();
        assert_eq!(hashes.len(), width, "{tile:?}");
        if tile.level > 0 {
            continue;
        }
        let bundle = fs::read(folder.join(bundle_path(tile.index, width))).unwrap();
        let entries = tiles::unbundle(&bundle).unwrap();
        let ours = scene.ledger.entries(tile.index * WIDTH as u64, width as u32).await.unwrap();
        assert_eq!(entries, ours);
        for (entry, hash) in entries.into_iter().zip(hashes) {
            assert_eq!(Hash::of_entry(entry), hash);
            edge.push(hash, &mut |_: Tile, _: &[Hash]| Ok::<_, ()>(())).unwrap();
        }
    }
    assert_eq!((edge.size(), edge.root()), (checkpoint.size, checkpoint.root));
    checkpoint
}

async fn settle(scene: &Scene, records: usize) {
    for _ in 0..records {
        scene.settle().await;
    }
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_place_has_every_record_in_the_layout_of_tlog_tiles() {
    let place = Copied::new().await;
    for records in [1, 2, 252, 1, 1, 300] {
        settle(&place.scene, records).await;
        place.confirm().await.unwrap_or_else(|fault| panic!("{fault}"));
    }
    let scene = place.end().await;
    assert_eq!(is_whole(&scene).await.size, 557 + 6);
    let folder = folder(&scene);
    assert_eq!(files(&folder.join("tile/entries/000.p")), 0, "narrow ones go once the full one is there");
    assert_eq!(files(&folder.join("tile/0/001.p")), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_released_unless_its_record_is_in_the_second_place() {
    let place = Copied::new().await;
    place.confirm().await.unwrap_or_else(|fault| panic!("{fault}"));
    let scene = place.end().await;
    let mut place = Copied::of(scene, OnFailure::Require, SOON).await;
    let (copy, away) = (folder(&place.scene), place.scene.directory.path().join("away"));
    fs::rename(&copy, &away).unwrap();
    // The first one finds out; it is recorded in the ledger, and does not leave.
    let fault = place.confirm().await.err().unwrap();
    assert!(fault.detail().contains("is not in the second place"), "{fault}");
    let state = place.until(|state| state.trouble.is_some()).await;
    assert!(state.copied < *place.scene.ledger.last_sequence().borrow());
    let fault = place.admits().unwrap_err();
    assert!(fault.detail().contains("does not take records"), "{fault}");
    assert!(!copy.exists(), "an empty mount point stays empty");

    fs::rename(&away, &copy).unwrap();
    place.until(|state| state.trouble.is_none()).await;
    place.admits().unwrap();
    place.confirm().await.unwrap_or_else(|fault| panic!("{fault}"));
    let scene = place.end().await;
    assert_eq!(is_whole(&scene).await.size, 3);
}

/// A file that hangs whoever opens it, as one on a machine that is away can.
fn hangs(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_place_that_hangs_is_told_in_time_and_hangs_nothing_else() {
    let place = Copied::new().await;
    place.confirm().await.unwrap_or_else(|fault| panic!("{fault}"));
    let scene = place.end().await;
    let copy = folder(&scene);
    let place = Copied::of(scene, OnFailure::Require, SOON).await;
    hangs(&copy.join("tile/entries/000.p/2"));
    let fault = tokio::time::timeout(PATIENCE, place.confirm()).await.unwrap().unwrap_err();
    assert!(fault.detail().contains("it took longer than 200ms"), "{fault}");
    // Records go on, and are signed for: revocations among them.
    place.scene.covered(place.scene.settle().await).await;
    // Nor does the custodian's end wait for ever. The next start looks at the folder, not for ever either.
    let Copied { scene, ends, copying, .. } = place;
    ends.cancel();
    tokio::time::timeout(PATIENCE, copying.end()).await.unwrap();
    fs::remove_file(copy.join("checkpoint")).unwrap();
    hangs(&copy.join("checkpoint"));
    let copier = open(&scene).await.unwrap_or_else(|error| panic!("{error}"));
    let trouble = copier.state().borrow().trouble.clone();
    assert!(trouble.is_some_and(|why| why.contains("timed out")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_lag_so_many_records_may_be_missing_and_no_more() {
    let place = Copied::new().await;
    place.confirm().await.unwrap_or_else(|fault| panic!("{fault}"));
    let scene = place.end().await;
    let mut place = Copied::of(scene, OnFailure::Lag(3), SOON).await;
    let copy = folder(&place.scene);
    fs::rename(&copy, place.scene.directory.path().join("away")).unwrap();
    for _ in 0..3 {
        place.confirm().await.unwrap_or_else(|fault| panic!("{fault}"));
    }
    place.until(|state| state.trouble.is_some()).await;
    assert!(place.admits().is_err());
    assert!(place.confirm().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_finished_by_the_next_run() {
    let place = Copied::new().await;
    settle(&place.scene, 300).await;
    let mut scene = place.end().await;
    let copy = folder(&scene);
    let (narrow, torn) = (copy.join("tile/entries/001.p"), copy.join("tile/entries/001.p/45.new"));
    for damage in 0..4 {
        match damage {
            0 => fs::remove_file(copy.join("checkpoint")).unwrap(),
            1 => fs::remove_dir_all(&narrow).unwrap(),
            2 => fs::write(&torn, b"half").unwrap(),
            _ => fs::remove_dir_all(copy.join("tile/0")).unwrap(),
        }
        if damage == 3 {
            // Hashes of full bundles are not looked for again: an auditor finds that. All else is there.
            fs::remove_file(copy.join("checkpoint")).unwrap();
        }
        let place = Copied::of(scene, OnFailure::Require, PATIENCE).await;
        settle(&place.scene, 1).await;
        scene = place.end().await;
        assert_eq!(is_whole(&scene).await.size, 301 + damage);
    }
}

async fn refused(scene: &Scene, told: &str) {
    match open(scene).await {
        Err(CopyError::Foreign(why)) => assert!(why.contains(told), "{told:?} is not in: {why}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened, although {told}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_of_another_log_or_a_fork_is_refused_and_stays_as_it_is() {
    let place = Copied::new().await;
    settle(&place.scene, 270).await;
    let scene = place.end().await;
    let copy = folder(&scene);
    let note = fs::read(copy.join("checkpoint")).unwrap();

    // Another log.
    let other = Scene::new().await;
    settle(&other, 300).await;
    let there = folder(&other);
    fs::rename(&copy, &there).unwrap();
    refused(&other, "is not one of this log").await;
    fs::remove_file(there.join("checkpoint")).unwrap();
    refused(&other, "another record 1 than the ledger").await;
    fs::write(there.join("checkpoint"), &note).unwrap();
    fs::rename(&there, &copy).unwrap();

    // An edited record, of those after the last full bundle that is signed for.
    let bundle = copy.join("tile/entries/001.p/14");
    let right = fs::read(&bundle).unwrap();
    let mut wrong = right.clone();
    wrong[9] ^= 1;
    fs::write(&bundle, wrong).unwrap();
    refused(&scene, "another record 257 than the ledger").await;
    fs::write(&bundle, &right).unwrap();

    // A forged or damaged checkpoint.
    let forged = String::from_utf8(note.clone()).unwrap().replace("\n270\n", "\n269\n");
    fs::write(copy.join("checkpoint"), forged).unwrap();
    refused(&scene, "is not one of this log").await;
    fs::write(copy.join("checkpoint"), &note).unwrap();
    assert!(open(&scene).await.is_ok());
    assert_eq!(fs::read(&bundle).unwrap(), right);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_lacks_records_of_the_second_place_is_refused_even_if_they_were_not_signed_for() {
    let place = Copied::new().await;
    settle(&place.scene, 20).await;
    let scene = place.end().await;
    let copy = folder(&scene);
    // As if one more record had got there, and the ledger had then lost it.
    let mut bundle = fs::read(copy.join("tile/entries/000.p/20")).unwrap();
    bundle.extend([0, 1, 7]);
    fs::write(copy.join("tile/entries/000.p/21"), bundle).unwrap();
    refused(&scene, "has record 21, and the ledger does not: an old copy of the ledger").await;
    fs::remove_file(copy.join("tile/entries/000.p/21")).unwrap();

    // A restored old database, whose own memory was restored with it.
    let rolled_back = Scene::new().await;
    let copier = Copier::open(rolled_back.ledger.clone(), scene.log.clone(), config(&scene)).await;
    let Err(CopyError::Foreign(why)) = copier else { panic!("opened") };
    assert!(why.contains("has 20 records, and the ledger only 0: an old copy"), "{why}");
    settle(&rolled_back, 25).await;
    let copier = Copier::open(rolled_back.ledger.clone(), scene.log.clone(), config(&scene)).await;
    let Err(CopyError::Foreign(why)) = copier else { panic!("opened") };
    assert!(why.contains("first 20 records are not those of the ledger: one of them was rewritten"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_somebody_else_put_there_is_noticed_while_it_runs() {
    let mut place = Copied::new().await;
    place.scene.covered(place.confirm().await.unwrap_or_else(|fault| panic!("{fault}"))).await;
    let checkpoint = folder(&place.scene).join("checkpoint");
    fs::write(&checkpoint, "an older one").unwrap();
    place.scene.settle().await;
    let state = place.until(|state| state.trouble.is_some()).await;
    let why = state.trouble.unwrap();
    assert!(why.contains("somebody else changed it") || why.contains("is not one of this log"), "{why}");
}
