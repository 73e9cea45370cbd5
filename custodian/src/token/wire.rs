//! What supervisor and worker say to each other: messages on a socket pair, each after its length (4 bytes, big-endian).
//!
//! The first order is the setup, the first report says how it went. Then jobs are pipelined and answered in any order.
//! What carries a file key has no `Debug` (law 9).

mod file_key;
mod kind;
mod order;
mod report;

use std::io;

use prost::Message;
use zeroize::Zeroizing;

use super::KeyTemplate;

pub(super) use file_key::FileKeyMessage;
pub(super) use order::{Job, Order, Setup, Sign, SignDigest, Task, ToWorker, Unwrap};
pub(super) use report::{Answer, FromWorker, NotReady, Outcome, Report};

/// Longest message: a survey of more than ten thousand keys.
const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Bytes of the length before each message.
pub(super) const HEADER: usize = 4;

/// Encodes a message with its length. Overwritten when dropped: an answer carries a file key.
pub(super) fn frame(message: &impl Message) -> Zeroizing<Vec<u8>> {
    let body = Zeroizing::new(message.encode_to_vec());
    let mut frame = Zeroizing::new(Vec::with_capacity(HEADER + body.len()));
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

/// Reads a length.
pub(super) fn frame_len(header: [u8; HEADER]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of the token worker is too long"));
    }
    Ok(length)
}

/// A message that makes no sense: parent and child are of different versions.
pub(super) fn nonsense() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the token worker and the custodian do not understand each other: are they of the same version?",
    )
}

/// Takes these bytes for messages, in both directions, and does nothing with them: for the fuzz target (law 11).
pub fn try_worker_messages(mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let Some((body, rest)) = frame_len(*header).ok().and_then(|len| rest.split_at_checked(len)) else {
            return;
        };
        bytes = rest;
        match ToWorker::decode(body).ok().and_then(|message| message.order) {
            Some(Order::Setup(setup)) => drop((setup.select(), setup.pin(), setup.cage(), setup.module())),
            Some(Order::Job(Job { task: Some(Task::Unwrap(unwrap)), .. })) => drop(unwrap.key_wrapping()),
            Some(Order::Job(Job { task: Some(Task::Generate(one)), .. })) => drop(KeyTemplate::from(&one)),
            Some(Order::Job(_) | Order::Cancel(_)) | None => {}
        }
        match FromWorker::decode(body).ok().and_then(|message| message.report) {
            Some(Report::Ready(survey)) => drop(survey.into_survey()),
            Some(Report::Answer(Answer { outcome: Some(outcome), .. })) => match outcome {
                Outcome::FileKey(key) => drop(key.into_key()),
                Outcome::Key(key) => drop(key.into_key()),
                Outcome::Survey(survey) => drop(survey.into_survey()),
                Outcome::Described(description) => drop(description.into_description()),
                _ => {}
            },
            Some(Report::NotReady(_) | Report::Answer(_) | Report::Sick(_)) | None => {}
        }
    }
}
