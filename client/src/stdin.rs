//! Standard input, read so that Ctrl-C is heard while nothing comes.

use std::io::{self, Read};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    error::Result,
    output,
    progress::{self, Progress},
};

/// How long to wait for input before looking for Ctrl-C: 0.1 s.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Standard input of one job.
pub(crate) struct Stdin<'a> {
    progress: &'a dyn Progress,
}

impl<'a> Stdin<'a> {
    /// For a job that may be interrupted.
    pub(crate) fn new(progress: &'a dyn Progress) -> Self {
        Self { progress }
    }

    /// The next `len` bytes; fewer only at the end of the input, none after it.
    ///
    /// # Errors
    /// [`crate::Kind::Local`] if it cannot be read; [`crate::Kind::Interrupted`].
    pub(crate) fn read_chunk(&mut self, len: u64) -> Result<Vec<u8>> {
        let mut chunk = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while filled < chunk.len() {
            match self.read(&mut chunk[filled..])? {
                0 => break,
                len => filled += len,
            }
        }
        chunk.truncate(filled);
        Ok(chunk)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let stdin = io::stdin();
        loop {
            progress::check(self.progress)?;
            let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&LOOK)).map_err(io::Error::from);
            let read = match ready {
                Ok(0) => continue,
                Ok(_) => stdin.lock().read(buffer),
                Err(why) => Err(why),
            };
            match read {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|why| output::failed("cannot read standard input", &why)),
            }
        }
    }
}
