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

    /// How many a commit gets that began with a settling, while these come one after the other.
    async fn gathered(&mut self, coming: Vec<Job>) -> usize {
        let mut batch = vec![self.settling(None)];
        let jobs = self.jobs.clone();
        let come = async {
            for job in coming {
                assert!(jobs.try_send(job).is_ok());
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(self.work.gather(&mut batch, &mut self.queue), come);
        batch.len()
    }
}

#[tokio::test]
async fn a_commit_waits_for_a_quarter_of_a_crowd() {
    let mut scene = Scene::with(MANY);
    let coming: Vec<_> = (1..MANY / 4).map(|_| scene.settling(None)).collect();
    assert_eq!(scene.gathered(coming).await, MANY / 4);
}

#[tokio::test]
async fn a_commit_does_not_wait_for_ever_where_nobody_comes() {
    let mut scene = Scene::with(MANY);
    assert_eq!(scene.gathered(Vec::new()).await, 1);
}

#[tokio::test]
async fn a_commit_of_few_waits_for_nobody() {
    let mut scene = Scene::with(CROWD - 1);
    let coming = vec![scene.settling(None), scene.settling(None)];
    assert_eq!(scene.gathered(coming).await, 1);
}

#[tokio::test]
async fn a_change_ends_the_waiting_of_a_crowd() {
    let mut scene = Scene::with(MANY);
    let change = scene.settling(Some(Change::WithdrawInvitation(world::device_id("laptop-7"))));
    let mut batch = vec![scene.settling(None), change];
    // Nobody else comes, and nobody is waited for.
    let gather = scene.work.gather(&mut batch, &mut scene.queue);
    assert!(is_done_now(gather), "it waited");
    // One that comes while others are waited for is seen, too: what comes after it is left to the next commit.
    let change = scene.settling(Some(Change::WithdrawInvitation(world::device_id("laptop-7"))));
    let (alone, later) = (scene.settling(None), scene.settling(None));
    let mut batch = vec![alone];
    let jobs = scene.jobs.clone();
    let come = async {
        assert!(jobs.try_send(change).is_ok());
        while jobs.capacity() < jobs.max_capacity() {
            tokio::task::yield_now().await;
        }
        assert!(jobs.try_send(later).is_ok());
    };
    tokio::join!(scene.work.gather(&mut batch, &mut scene.queue), come);
    assert_eq!(batch.len(), 2);
}

/// Whether it is done without waiting.
fn is_done_now(future: impl Future<Output = ()>) -> bool {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut context).is_ready()
}
