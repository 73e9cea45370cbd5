use super::*;
use crate::{
    authority::Standing,
    ledger::{Change, Grant, contract::world},
};

/// Under way beside those that a test looks at.
const MANY: usize = 40;

type Commit = fn(&[Job]) -> Result<Committed, LedgerError>;

/// A committer's thread that has so many attempts under way, without the thread.
struct Scene {
    work: Work<Commit>,
    jobs: mpsc::Sender<Job>,
    queue: mpsc::Receiver<Job>,
    /// Callers who wait.
    replies: Vec<oneshot::Receiver<Verdict>>,
    _under_way: Vec<Arc<()>>,
}

impl Scene {
    fn with(under_way: usize) -> Self {
        let own = Arc::new(());
        let (jobs, queue) = mpsc::channel(MAX_BATCH);
        let work = Work {
            commit: (|_| Err(LedgerError("not called".to_owned()))) as Commit,
            last: watch::channel(0).0,
            unrecorded: Vec::new(),
            most_unrecorded: 0,
            under_way: Arc::downgrade(&own),
        };
        Self { work, jobs, queue, replies: Vec::new(), _under_way: vec![own; under_way + 1] }
    }

    /// A settling that somebody waits for.
    fn settling(&mut self, change: Option<Change>) -> Job {
        let (reply, waits) = oneshot::channel();
        self.replies.push(waits);
        let outcome = Outcome::Granted(Grant { standing: Standing::default(), change });
        Job::Attempt(Part {
            intent: Arc::new(world::intent("Unwrap")),
            since: 0,
            step: Step::Settle(Box::new(outcome)),
            reply: Some(reply),
        })
    }

    /// How many a commit gets that began with `first`, while this many more are queued.
    async fn gathered(&mut self, first: Job, queued: usize) -> usize {
        for _ in 0..queued {
            let job = self.settling(None);
            assert!(self.jobs.try_send(job).is_ok());
        }
        let mut batch = vec![first];
        self.work.gather(&mut batch, &mut self.queue).await;
        batch.len()
    }
}

#[tokio::test]
async fn a_commit_waits_for_more_of_a_crowd() {
    let mut scene = Scene::with(MANY);
    let first = scene.settling(None);
    assert_eq!(scene.gathered(first, MANY / 4 - 1).await, MANY / 4);
}

#[tokio::test]
async fn a_commit_does_not_wait_for_ever_where_nobody_comes() {
    let mut scene = Scene::with(MANY);
    let first = scene.settling(None);
    assert_eq!(scene.gathered(first, 0).await, 1);
}

#[tokio::test]
async fn a_commit_of_few_waits_for_nobody() {
    let mut scene = Scene::with(CROWD - 1);
    let first = scene.settling(None);
    assert_eq!(scene.gathered(first, 2).await, 1);
}

#[tokio::test]
async fn a_change_waits_for_nobody_however_many_are_under_way() {
    let mut scene = Scene::with(MANY);
    let first = scene.settling(Some(Change::WithdrawInvitation(world::device_id("laptop-7"))));
    assert_eq!(scene.gathered(first, 2).await, 1);
}
