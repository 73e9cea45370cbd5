//! The child process that has the module loaded and holds the PIN (law 6).
//!
//! The main thread reads orders and queues jobs; every other thread owns a session and takes one job at a time. Standard
//! input is one end of a socket pair. When the other end closes, the process ends.

use std::{
    collections::HashMap,
    fmt,
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
    openpgp,
};
use prost::Message;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use zeroize::Zeroizing;

use super::{
    Cage, KeyDescription, KeyTemplate, StartError, Survey, describe,
    grip::{self, Grip, patiently},
    keys::{KeyRing, ServedKey, destroy, generate},
    mechanism, pin,
    pkcs11::{Hands, Module},
    queue::{Full, Lane, Queue},
    rv::{Failure, Sense},
    wire::{
        self, Answer, FileKeyMessage, FromWorker, HEADER, Job, NotReady, Order, Outcome, Report, Setup, Sign,
        SignDigest, Task, ToWorker, Unwrap,
    },
};

/// Exit code of a worker whose token is sick.
const SICK: i32 = 2;

/// How far the worker gives way to the network process, as nice(1) counts. Where the module computes on these processors
/// (SoftHSM), one operation takes some ms; who reads a request, decides or commits needs a processor for a tenth of that, and
/// would wait for one as long as the operation takes.
///
/// Not further: beside a thread of the network process that computes all the time it keeps a quarter of a processor.
const POLITENESS: i32 = 5;

/// How long threads may take to finish when the supervisor is gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a token that is busy is waited for at the start. Less than a worker is given to start, so that it can say
/// what is wrong.
const FIRST_LOOK: Duration = Duration::from_secs(1);

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
    let (worker, sessions) = match Worker::new(&setup, socket.try_clone()?) {
        Ok(worker) => worker,
        Err(error) => return send(&socket, Report::NotReady(NotReady::from(&error))),
    };
    worker.serve(sessions, input)
}

/// No core dump, no debugger, and no life without the supervisor.
fn harden() -> io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// The sessions of a worker. Together they are one login.
struct Sessions {
    /// Does nothing, and so keeps the login when all others fail.
    idle: Hands,
    /// One for each thread.
    working: Vec<Hands>,
}

struct Worker {
    module: Module,
    cage: Cage,
    remarks: Vec<String>,
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
    /// Reads the PIN, closes the cage, finds the token, logs in, checks the keys, and opens as many sessions as there is
    /// room for.
    fn new(setup: &Setup, output: UnixStream) -> Result<(Self, Sessions), StartError> {
        let nonsense = || StartError::Worker(wire::nonsense().to_string());
        let select = setup.select().ok_or_else(nonsense)?;
        let source = setup.pin().ok_or_else(nonsense)?;
        let pin = pin::read(&source, &select.to_string())?;
        // Only now: a terminal does not let another process group read the PIN. From here on its Ctrl-C is not for us.
        rustix::process::setpgid(None, None).map_err(|error| {
            StartError::Worker(format!("the token worker gets no process group: {error}"))
        })?;
        let gives_way = rustix::process::nice(POLITENESS);
        let cage = Cage::close(&setup.cage())?;
        // Another user, another process: what was set before is gone.
        harden().map_err(|error| StartError::Worker(format!("cannot protect the token worker: {error}")))?;
        let module = Module::open(setup.module(), &select).map_err(|error| cage.blame(error))?;
        let idle = module.login(&pin)?;
        drop(pin);
        let ring = patiently(Instant::now() + FIRST_LOOK, || KeyRing::find(&idle, &HashMap::new()))
            .map_err(|failure| module.unreadable(failure))?;
        let wanted = setup.threads.max(1) as usize;
        let working = module.many_hands(wanted)?;
        let mut remarks = fewer_sessions(wanted, working.len());
        // It would serve all the same, somewhat slower.
        remarks.extend(
            gives_way.err().map(|error| format!("it cannot give way to the network process: {error}")),
        );
        let queue = Queue::new(setup.queue as usize);
        let ring = RwLock::new(ring);
        let worker = Self { module, cage, remarks, ring, queue, output: Mutex::new(output) };
        Ok((worker, Sessions { idle, working }))
    }

    fn serve(self, sessions: Sessions, mut input: impl Read) -> io::Result<()> {
        let Sessions { idle, working } = sessions;
        let worker = Arc::new(self);
        let (ended, all_ended) = mpsc::channel::<()>();
        for (number, hands) in working.into_iter().enumerate() {
            let (worker, ended) = (Arc::clone(&worker), ended.clone());
            thread::Builder::new().name(format!("session-{number}")).spawn(move || {
                worker.work(hands);
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
                let lane = lane(&task);
                if let Err(Full(job)) = self.queue.push(lane, Waiting { id, deadline, task }) {
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
    fn work(&self, hands: Hands) {
        let mut grip = Grip::new(&self.module, hands);
        while let Some(Waiting { id, deadline, task }) = self.queue.take() {
            let outcome = if deadline <= Instant::now() {
                Outcome::Expired(())
            } else {
                match task {
                    Task::Unwrap(task) => self.unwrap(&mut grip, &task, deadline),
                    Task::Sign(task) => self.sign(&mut grip, &task, deadline),
                    Task::SignDigest(task) => self.sign_digest(&mut grip, &task, deadline),
                    Task::Generate(template) => {
                        self.generate(&mut grip, &KeyTemplate::from(&template), deadline)
                    }
                    Task::Survey(()) => self.survey_again(&mut grip, deadline),
                    Task::Describe(id) => self.describe(&mut grip, &id, deadline),
                    Task::Destroy(id) => self.destroy(&mut grip, &id, deadline),
                }
            };
            self.answer(id, outcome);
        }
    }

    fn unwrap(&self, grip: &mut Grip<'_>, task: &Unwrap, deadline: Instant) -> Outcome {
        let Some(served) = self.served(&task.key) else { return Outcome::UnknownKey(()) };
        let modulus_bits = served.key.kind.modulus_bits().filter(|_| served.key.kind.unwraps());
        let Some(modulus_bits) = modulus_bits else { return Outcome::UnknownKey(()) };
        // What anybody can see of a wrapped key without trying it.
        let wrapping = match task.key_wrapping() {
            Some(wrapping) if served.unwraps(wrapping) => wrapping,
            _ => return Outcome::Rejected(()),
        };
        if task.ciphertext.len() != modulus_bits as usize / 8 {
            return Outcome::Rejected(());
        }
        // Law 5: whatever is wrong with a ciphertext, and whatever the module says of it, it takes this one way. A
        // plaintext of another length does, too. It has failed twice, in two sessions, and its key was well in between:
        // a stumble of the token is not blamed on the caller, nor is a module that does not get as far as the ciphertext.
        let (mut bad, mut not_begun) = (0, 0);
        loop {
            let since = Instant::now();
            let unwrapped = grip.steadily(deadline, |hands| {
                let plaintext = hands.decrypt(served.handle, wrapping, &task.ciphertext);
                // Law 4.
                let file_key = match wrapping {
                    KeyWrapping::OpenPgp => {
                        let lengths = [openpgp::V3_LEN, openpgp::V6_LEN];
                        openpgp::take_file_key(&mut rejected_implicitly(plaintext, &lengths)?)
                    }
                    KeyWrapping::Pkcs1 => {
                        FileKey::take(&mut rejected_implicitly(plaintext, &[FILE_KEY_LEN])?)
                    }
                    _ => FileKey::take(&mut plaintext?),
                };
                file_key.ok_or_else(|| Failure::new(Sense::BadInput, "the plaintext is no file key"))
            });
            let failure = match unwrapped {
                Ok(key) => {
                    served.did_well();
                    return Outcome::FileKey(FileKeyMessage::new(&key));
                }
                Err(failure) => failure,
            };
            if let Err(sick) = served.is_well(grip, &failure, since, deadline) {
                if self.served(&task.key).is_none() {
                    // Destroyed meanwhile.
                    return Outcome::UnknownKey(());
                }
                return self.give_up(deadline, &sick.of(served.name()));
            }
            *(if failure.could_be_the_callers() { &mut bad } else { &mut not_begun }) += 1;
            if bad == 2 {
                return Outcome::Rejected(());
            }
            if not_begun == 2 {
                return self.give_up(deadline, &failure.of(served.name()));
            }
        }
    }

    fn sign(&self, grip: &mut Grip<'_>, task: &Sign, deadline: Instant) -> Outcome {
        let served = self.served(&task.key).filter(|served| served.key.kind.signs());
        let Some(served) = served else { return Outcome::UnknownKey(()) };
        let sign = |hands: &Hands| {
            let signature = hands.sign((served.handle, served.key.kind), &task.message)?;
            good(signature.filter(|signature| mechanism::verifies(&served.key, &task.message, signature)))
        };
        self.signed(grip, &served, sign, deadline)
    }

    fn sign_digest(&self, grip: &mut Grip<'_>, task: &SignDigest, deadline: Instant) -> Outcome {
        let Some(digest) = task.digest() else { return Outcome::UnknownKey(()) };
        let served = self.served(digest.key_id().as_bytes());
        let Some(served) = served.filter(|served| served.key.kind.signs_digests(digest.algorithm())) else {
            return Outcome::UnknownKey(());
        };
        let spki = &served.key.spki;
        let sign = |hands: &Hands| {
            let signature = hands.sign_digest(served.handle, &digest)?;
            good(signature.filter(|signature| mechanism::verifies_digest(spki, &digest, signature)))
        };
        self.signed(grip, &served, sign, deadline)
    }

    fn signed(
        &self,
        grip: &mut Grip<'_>,
        served: &ServedKey,
        sign: impl Fn(&Hands) -> Result<Vec<u8>, Failure>,
        deadline: Instant,
    ) -> Outcome {
        // Everything can be signed: a failure is never the caller's fault, but may be the session's.
        let signature = match grip.steadily(deadline, &sign) {
            Err(failure) if failure.sense != Sense::Transient => grip.steadily(deadline, &sign),
            outcome => outcome,
        };
        match signature {
            Ok(signature) => Outcome::Signature(signature),
            Err(failure) => self.give_up(deadline, &failure.of(served.name())),
        }
    }

    fn generate(&self, grip: &mut Grip<'_>, template: &KeyTemplate, deadline: Instant) -> Outcome {
        // Makes room for the session that can write: the token may have a limit.
        grip.let_go();
        let made = patiently(deadline, || Ok(self.module.making_hands()?))
            .map_err(|failure| failure.of("the token opens no session for writing"))
            .and_then(|hands| generate(&hands, template));
        match made {
            Ok(made) => {
                let message = (&made.key).into();
                let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
                ring.served.insert(made.key.id, Arc::new(made));
                Outcome::Key(message)
            }
            Err(failure) if failure.sense.is_the_end() => self.sick(&self.cage.explain(&failure)),
            Err(failure) => Outcome::Failed(self.cage.explain(&failure)),
        }
    }

    fn describe(&self, grip: &mut Grip<'_>, id: &[u8], deadline: Instant) -> Outcome {
        let Some(served) = self.served(id) else { return Outcome::UnknownKey(()) };
        match grip.steadily(deadline, |hands| describe::attributes(&hands.session, served.handle)) {
            Ok(attributes) => {
                let (token, uri) = (self.module.description.as_ref().clone(), served.key.uri.clone());
                Outcome::Described(KeyDescription { token, uri, attributes }.into())
            }
            Err(failure) => self.give_up(deadline, &failure.of(served.name())),
        }
    }

    fn destroy(&self, grip: &mut Grip<'_>, id: &[u8], deadline: Instant) -> Outcome {
        let Some(id) = KeyId::from_bytes(id) else { return Outcome::UnknownKey(()) };
        // First: what is not in the ring is missed neither by a survey nor by an operation that it fails under.
        let served = self.ring.write().unwrap_or_else(PoisonError::into_inner).served.remove(&id);
        grip.let_go();
        let destroyed = patiently(deadline, || Ok(self.module.making_hands()?))
            .map_err(|failure| failure.of("the token opens no session for writing"))
            .and_then(|hands| destroy(&hands.session, id));
        let failure = match destroyed {
            Ok(0) => return Outcome::UnknownKey(()),
            Ok(_) => return Outcome::Destroyed(()),
            Err(failure) => failure,
        };
        if failure.sense.is_the_end() {
            self.sick(&failure);
        }
        if let Some(served) = served {
            self.ring.write().unwrap_or_else(PoisonError::into_inner).served.insert(id, served);
        }
        Outcome::Failed(failure.to_string())
    }

    /// Looks at the token again: keys made with other tools appear.
    fn survey_again(&self, grip: &mut Grip<'_>, deadline: Instant) -> Outcome {
        let old = self.ring.read().unwrap_or_else(PoisonError::into_inner).served.clone();
        let found = match grip.steadily(deadline, |hands| KeyRing::find(hands, &old)) {
            Ok(found) => found,
            Err(failure) => return self.give_up(deadline, &failure),
        };
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        // A module that has lost its token says "0 found". Only a new start of the module tells which it is.
        let is_gone = |known: &&Arc<ServedKey>| {
            old.contains_key(&known.key.id) && !found.served.contains_key(&known.key.id)
        };
        if let Some(gone) = ring.served.values().find(is_gone) {
            self.sick(&format!("{} is no longer found", gone.name()));
        }
        // What was generated meanwhile stays; what was destroyed meanwhile does not come back.
        let mut served = found.served;
        served.retain(|id, _| ring.served.contains_key(id) || !old.contains_key(id));
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
            remarks: self.remarks.clone(),
            cage: self.cage.clone(),
        })
    }

    fn served(&self, id: &[u8]) -> Option<Arc<ServedKey>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.served.get(&KeyId::from_bytes(id)?).map(Arc::clone)
    }

    /// What every token can do was not done, more than once. A token that is merely busy has until the deadline; what no
    /// repetition helps leaves the other keys alone; anything else is cured by a new process, if by anything.
    fn give_up(&self, deadline: Instant, failure: &Failure) -> Outcome {
        match failure.sense {
            Sense::Configuration(_) => Outcome::Failed(failure.to_string()),
            Sense::Transient if deadline <= Instant::now() + grip::LONGEST_PAUSE => Outcome::Expired(()),
            _ => self.sick(failure),
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
    fn sick(&self, reason: &impl fmt::Display) -> ! {
        self.report(Report::Sick(reason.to_string()));
        process::exit(SICK);
    }
}

/// The custodian's own signatures go ahead of what callers ask for: everybody who wants a receipt waits for that of one
/// checkpoint, and behind a full queue of unwraps the token would run out of them meanwhile.
fn lane(task: &Task) -> Lane {
    match task {
        Task::Sign(_) => Lane::Express,
        _ => Lane::Usual,
    }
}

/// A signature that verifies. A handle that came to mean another key, a fault in the computation: nothing wrong leaves.
fn good(verified: Option<Vec<u8>>) -> Result<Vec<u8>, Failure> {
    verified.ok_or_else(|| Failure::new(Sense::ModuleBroken, "its signature does not verify"))
}

/// What a module decrypted with PKCS#1 v1.5, or something in its place that is no wrapped file key.
///
/// Law 5: whether the padding was right must not show (Bleichenbacher 1998). So what the module calls bad padding, and a
/// plaintext of a wrong length, go on as a plaintext that is wrong in its content: from here on all are the same.
fn rejected_implicitly(
    decrypted: Result<Zeroizing<Vec<u8>>, Failure>,
    lengths: &[usize],
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // No file key of either kind: without a cipher and a checksum, and too long.
    let none = Zeroizing::new(vec![0; openpgp::V3_LEN]);
    match decrypted {
        Ok(plaintext) if lengths.contains(&plaintext.len()) => Ok(plaintext),
        Ok(_) => Ok(none),
        Err(failure) if failure.could_be_the_callers() && failure.sense.may_be_of_one() => Ok(none),
        // That the session or the token is gone has nothing to do with the ciphertext.
        Err(failure) => Err(failure),
    }
}

/// What to say of a token that has no room for all the sessions wanted.
fn fewer_sessions(wanted: usize, got: usize) -> Vec<String> {
    if got == wanted {
        return Vec::new();
    }
    vec![format!(
        "{got} of {wanted} threads: the token has no room for more sessions. Set threads = {got}, end other programs that \
         use the token, or raise its limit (ulMaxSessionCount)"
    )]
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
