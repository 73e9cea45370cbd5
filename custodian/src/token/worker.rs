//! The child process that has the module loaded and holds the PIN (law 6).
//!
//! The main thread reads orders and queues jobs; every other thread owns a session and takes one job at a time. Standard
//! input is one end of a socket pair. When the other end closes, the process ends.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    process::{self, ExitCode},
    sync::{Arc, Mutex, PoisonError, RwLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping},
    limits::FILE_KEY_LEN,
};
use prost::Message;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

use super::{
    Cage, KeyKind, KeyTemplate, StartError, Survey,
    keys::{KeyRing, ServedKey, generate},
    pin,
    pkcs11::{Hands, Module},
    queue::{Full, Queue},
    wire::{
        self, Answer, FileKeyMessage, FromWorker, HEADER, Job, NotReady, Order, Outcome, Report, Setup, Sign,
        Task, ToWorker, Unwrap,
    },
};

/// Exit code of a worker whose token is sick.
const SICK: i32 = 2;

/// How long threads may take to finish when the supervisor is gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// The worker's main function. Speaks on standard input; returns when the other end closes.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads the socket any more. A lost line on standard error is no reason to fail differently.
            drop(writeln!(io::stderr(), "token worker: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    harden()?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut input = BufReader::new(socket.try_clone()?);
    let Some(Order::Setup(setup)) = read_order(&mut input)? else { return Err(wire::nonsense()) };
    let (worker, idle) = match Worker::new(&setup, socket.try_clone()?) {
        Ok(worker) => worker,
        Err(error) => return send(&socket, Report::NotReady(NotReady::from(&error))),
    };
    worker.serve(setup.threads as usize, idle, input)
}

/// No core dump, no debugger, and no life without the supervisor.
fn harden() -> io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

struct Worker {
    module: Module,
    cage: Cage,
    ring: RwLock<KeyRing>,
    queue: Queue<Waiting>,
    output: Mutex<UnixStream>,
}

struct Waiting {
    id: u64,
    deadline: Instant,
    task: Task,
}

impl Worker {
    /// Reads the PIN, closes the cage, finds the token, logs in, checks the keys. The session returned keeps the login
    /// alive.
    fn new(setup: &Setup, output: UnixStream) -> Result<(Self, Hands), StartError> {
        let nonsense = || StartError::Worker(wire::nonsense().to_string());
        let select = setup.select().ok_or_else(nonsense)?;
        let source = setup.pin().ok_or_else(nonsense)?;
        let pin = pin::read(&source, &select.to_string())?;
        // Only now: a terminal does not let another process group read the PIN. From here on its Ctrl-C is not for us.
        rustix::process::setpgid(None, None).map_err(|error| {
            StartError::Worker(format!("the token worker gets no process group: {error}"))
        })?;
        let cage = Cage::close(&setup.cage())?;
        // Another user, another process: what was set before is gone.
        harden().map_err(|error| StartError::Worker(format!("cannot protect the token worker: {error}")))?;
        let module = Module::open(setup.module(), &select).map_err(|error| cage.blame(error))?;
        let hands = module.login(&pin)?;
        drop(pin);
        let ring = KeyRing::find(&hands, &HashMap::new())
            .map_err(|reason| StartError::Token(format!("token {:?}: {reason}", module.label)))?;
        let queue = Queue::new(setup.queue as usize);
        Ok((Self { module, cage, ring: RwLock::new(ring), queue, output: Mutex::new(output) }, hands))
    }

    fn serve(self, threads: usize, idle: Hands, mut input: impl Read) -> io::Result<()> {
        let worker = Arc::new(self);
        let (ended, all_ended) = mpsc::channel::<()>();
        for number in 0..threads.max(1) {
            let (worker, ended) = (Arc::clone(&worker), ended.clone());
            thread::Builder::new().name(format!("session-{number}")).spawn(move || {
                worker.work();
                drop(worker);
                drop(ended);
            })?;
        }
        drop(ended);
        worker.report(Report::Ready(worker.survey().as_ref().into()));
        while let Some(order) = read_order(&mut input)? {
            worker.obey(order)?;
        }
        worker.queue.close();
        // Modules crash when they are finalized during a call, or with sessions open. A call that hangs is left to
        // the end of the process.
        let hung = all_ended.recv_timeout(FAREWELL) == Err(mpsc::RecvTimeoutError::Timeout);
        drop(idle);
        match Arc::into_inner(worker) {
            Some(worker) if !hung => worker.module.finalize().map_err(io::Error::other),
            _ => Ok(()),
        }
    }

    /// On the main thread: must not wait for the module.
    fn obey(&self, order: Order) -> io::Result<()> {
        match order {
            Order::Setup(_) => Err(wire::nonsense()),
            Order::Job(Job { id, remaining, task }) => {
                let task = task.ok_or_else(wire::nonsense)?;
                let deadline = Instant::now() + Duration::from_micros(remaining);
                if let Err(Full(job)) = self.queue.push(Waiting { id, deadline, task }) {
                    self.answer(job.id, Outcome::Busy(()));
                }
                Ok(())
            }
            Order::Cancel(id) => {
                if let Some(job) = self.queue.remove(|job| job.id == id) {
                    self.answer(job.id, Outcome::Expired(()));
                }
                Ok(())
            }
        }
    }

    /// A thread's life.
    fn work(&self) {
        let mut hands = self.new_hands();
        while let Some(job) = self.queue.take() {
            let outcome = if job.deadline <= Instant::now() {
                Outcome::Expired(())
            } else {
                match job.task {
                    Task::Unwrap(task) => self.unwrap(&mut hands, &task),
                    Task::Sign(task) => self.sign(&mut hands, &task),
                    Task::Generate(template) => self.generate(&KeyTemplate::from(&template)),
                    Task::Survey(()) => self.survey_again(&hands),
                }
            };
            self.answer(job.id, outcome);
        }
    }

    fn unwrap(&self, hands: &mut Hands, task: &Unwrap) -> Outcome {
        let Some(served) = self.served(&task.key) else { return Outcome::UnknownKey(()) };
        let KeyKind::RsaUnwrap { modulus_bits } = served.key.kind else { return Outcome::UnknownKey(()) };
        // What anybody can see of a wrapped key without trying it.
        let wrapping = match task.key_wrapping() {
            Some(wrapping) if served.unwraps(wrapping) => wrapping,
            _ => return Outcome::Rejected(()),
        };
        if task.ciphertext.len() != modulus_bits as usize / 8 {
            return Outcome::Rejected(());
        }
        match hands.decrypt(served.handle, wrapping, &task.ciphertext) {
            // Law 4.
            Ok(mut plaintext) if plaintext.len() == FILE_KEY_LEN => {
                served.did_well();
                match FileKey::take(&mut plaintext) {
                    Some(key) => Outcome::FileKey(FileKeyMessage::new(&key)),
                    None => Outcome::Rejected(()),
                }
            }
            // Law 5: a plaintext of another length takes the same way as one that does not decrypt.
            Ok(_) | Err(_) => {
                self.recover(hands, &served);
                Outcome::Rejected(())
            }
        }
    }

    fn sign(&self, hands: &mut Hands, task: &Sign) -> Outcome {
        let served = self.served(&task.key).filter(|served| served.key.kind == KeyKind::EcdsaP256Sign);
        let Some(served) = served else { return Outcome::UnknownKey(()) };
        // Every digest can be signed: a failure is never the caller's fault, but may be the session's.
        let signature = hands.sign(served.handle, &task.digest).or_else(|_| {
            *hands = self.new_hands();
            hands.sign(served.handle, &task.digest)
        });
        match signature {
            Ok(Some(signature)) => Outcome::Signature(signature),
            Ok(None) => Outcome::Failed("the token's signature is none of P-256".to_owned()),
            Err(error) => self.sick(&format!("key {:?} does not sign: {error}", served.key.label)),
        }
    }

    fn generate(&self, template: &KeyTemplate) -> Outcome {
        let hands = match self.module.making_hands() {
            Ok(hands) => hands,
            Err(error) => return Outcome::Failed(format!("the token opens no session for writing: {error}")),
        };
        match generate(&hands, template) {
            Ok(made) => {
                let message = (&made.key).into();
                let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
                ring.served.insert(made.key.id, Arc::new(made));
                Outcome::Key(message)
            }
            Err(reason) => Outcome::Failed(self.cage.explain(&reason)),
        }
    }

    /// Looks at the token again: keys made with other tools appear.
    fn survey_again(&self, hands: &Hands) -> Outcome {
        let old = self.ring.read().unwrap_or_else(PoisonError::into_inner).served.clone();
        let found = match KeyRing::find(hands, &old) {
            Ok(found) => found,
            Err(reason) => self.sick(&reason),
        };
        // A module that has lost its token says "0 found". Only a new start of the module tells which it is.
        if let Some(gone) = old.values().find(|known| !found.served.contains_key(&known.key.id)) {
            self.sick(&format!("key {:?} ({}) is no longer found", gone.key.label, gone.key.id));
        }
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        // What was generated meanwhile stays.
        let mut served = found.served;
        for (id, key) in ring.served.drain() {
            served.entry(id).or_insert(key);
        }
        *ring = KeyRing { served, ..found };
        drop(ring);
        Outcome::Survey(self.survey().as_ref().into())
    }

    fn survey(&self) -> Box<Survey> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        Box::new(Survey {
            label: self.module.label.clone(),
            model: self.module.model.clone(),
            wrapping: ring.wrappings.first().copied().unwrap_or(KeyWrapping::OaepSha1),
            keys: ring.list(),
            unserved: ring.unserved.clone(),
            cage: self.cage.clone(),
        })
    }

    fn served(&self, id: &[u8]) -> Option<Arc<ServedKey>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.served.get(&KeyId::from_bytes(id)?).map(Arc::clone)
    }

    /// After a failure: a new session, because some modules leave the old one busy for ever; then the canary, because
    /// error codes do not tell a bad ciphertext from a sick token.
    fn recover(&self, hands: &mut Hands, served: &ServedKey) {
        *hands = self.new_hands();
        if let Err(reason) = served.is_well(hands) {
            self.sick(&format!("key {:?} ({}): {reason}", served.key.label, served.key.id));
        }
    }

    fn new_hands(&self) -> Hands {
        match self.module.hands() {
            Ok(hands) => hands,
            Err(error) => self.sick(&format!("the token opens no session: {error}")),
        }
    }

    fn answer(&self, id: u64, outcome: Outcome) {
        self.report(Report::Answer(Answer { id, outcome: Some(outcome) }));
    }

    fn report(&self, report: Report) {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if send(&output, report).is_err() {
            // The supervisor is gone, and with it the reason to be.
            process::exit(0);
        }
    }

    /// The token no longer does what it did. Only a new process can start the module anew.
    fn sick(&self, reason: &str) -> ! {
        self.report(Report::Sick(reason.to_owned()));
        process::exit(SICK);
    }
}

fn send(mut output: &UnixStream, report: Report) -> io::Result<()> {
    output.write_all(&wire::frame(&FromWorker { report: Some(report) }))
}

/// The next order; `None` when the supervisor has closed the socket.
fn read_order(input: &mut impl Read) -> io::Result<Option<Order>> {
    let mut header = [0; HEADER];
    match input.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; wire::frame_len(header)?];
    input.read_exact(&mut body)?;
    let message = ToWorker::decode(&*body).map_err(|_| wire::nonsense())?;
    message.order.map(Some).ok_or_else(wire::nonsense)
}
