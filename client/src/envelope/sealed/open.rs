//! An opened envelope: content out, on all cores, in any order.

use std::{
    fs::File,
    sync::atomic::{AtomicU32, Ordering},
};

use crc32fast::Hasher;

use super::plaintext::{BLOCK, Plaintext, Window};
use crate::{
    envelope::{
        damaged,
        zip::{
            Compression, Data, Directory, Entry, FileWriter, Inflater, MAX_TARGET_LEN, Unpacker, set_modified,
        },
    },
    error::{Error, Result},
    extract::Limits,
    progress::Progress,
    workers,
};

/// From this many bytes on, a stored entry gets all cores for itself.
const HUGE: u64 = 16 << 20;
/// Smaller entries that follow each other go to one core in groups of this many bytes or entries, because they share chunks.
const GROUP: u64 = 1 << 20;
const GROUP_ENTRIES: usize = 256;

/// An envelope whose list of entries is known.
pub struct Opened<'f> {
    plaintext: Plaintext<'f>,
    directory: Directory,
}

/// What a thread uses again for the next entry.
#[derive(Default)]
struct Scratch {
    window: Window,
    inflater: Option<Inflater>,
}

/// A file to write.
type Job<'e> = (&'e Entry, &'e Data);

impl<'f> Opened<'f> {
    /// Reads the list of entries.
    pub(super) fn new(plaintext: Plaintext<'f>, limits: &Limits) -> Result<Self> {
        let directory = Directory::read_plain(&plaintext, plaintext.len(), limits)?;
        Ok(Self { plaintext, directory })
    }

    /// Files, folders and links.
    pub fn entries(&self) -> &[Entry] {
        &self.directory.entries
    }

    /// Writes the content of these entries to the empty files that `create` makes, and sets their modification times.
    /// If this fails, the files may hold plaintext that is not authenticated, and must go.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if content is not what was sealed; [`crate::Kind::Local`] if it cannot be written;
    /// [`crate::Kind::Interrupted`].
    pub fn write_files(
        &self,
        files: &[&Entry],
        create: impl Fn(&Entry) -> Result<File> + Sync,
        progress: &dyn Progress,
    ) -> Result<()> {
        let files: Vec<Job<'_>> =
            files.iter().filter_map(|entry| Some((*entry, entry.data.as_ref()?))).collect();
        let is_huge = |data: &Data| data.compression == Compression::Stored && data.len >= HUGE;
        let (huge, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, data)| is_huge(data));
        for (entry, data) in huge {
            let out = create(entry)?;
            self.huge_to_file(entry, data, &out, progress)?;
            set_modified(&out, entry)?;
        }
        workers::for_each(workers::count(), &groups(&others), |group, scratch: &mut Scratch| {
            group.iter().try_for_each(|(entry, data)| {
                let out = create(entry)?;
                let mut writer = FileWriter::new(&out, entry, progress);
                self.content(entry, data, scratch, |bytes| writer.write(bytes))?;
                set_modified(&out, entry)
            })
        })
    }

    /// Checks folders, which have no content but a header of their own.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is not what was sealed.
    pub fn check_folders<'e>(&self, mut folders: impl Iterator<Item = &'e Entry>) -> Result<()> {
        folders.try_for_each(|folder| self.directory.locate(&self.plaintext, folder).map(drop))
    }

    /// Where a link points; authenticated, but not checked for safety.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is not what was sealed, or cannot be where a link points.
    pub fn link_target(&self, link: &Entry) -> Result<String> {
        let no_target = || damaged(format!("the link “{}” points nowhere", link.path()));
        let data = link.data.as_ref().ok_or_else(no_target)?;
        let mut target = Vec::new();
        self.content(link, data, &mut Scratch::default(), |bytes| {
            if target.len() + bytes.len() > MAX_TARGET_LEN {
                return Err(no_target());
            }
            target.extend(bytes);
            Ok(())
        })?;
        String::from_utf8(target).map_err(|_| no_target())
    }

    /// Hands over the content of an entry, piece by piece.
    fn content(
        &self,
        entry: &Entry,
        data: &Data,
        scratch: &mut Scratch,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let start = self.directory.locate(&self.plaintext, entry)?;
        let mut crc = Hasher::new();
        let mut unpacker = Unpacker::new(entry, data, scratch.inflater.take(), |bytes: &[u8]| {
            crc.update(bytes);
            take(bytes)
        });
        let mut done = 0;
        while done < data.len {
            let block = self.plaintext.block(&mut scratch.window, start + done)?;
            let len = usize::try_from(data.len - done).unwrap_or(usize::MAX).min(block.len());
            if len == 0 {
                return Err(too_short(entry));
            }
            unpacker.update(&block[..len])?;
            done += len as u64;
        }
        scratch.inflater = unpacker.finish()?;
        check_crc(crc, entry, data)
    }

    /// A stored entry, on all cores: each block of it is read, decrypted and written by itself.
    fn huge_to_file(&self, entry: &Entry, data: &Data, out: &File, progress: &dyn Progress) -> Result<()> {
        let start = self.directory.locate(&self.plaintext, entry)?;
        let end = start + data.len;
        let first = start / BLOCK;
        let blocks = usize::try_from(end.div_ceil(BLOCK) - first).map_err(|_| too_short(entry))?;
        let crcs: Vec<_> = (0..blocks).map(|_| AtomicU32::new(0)).collect();
        // Of the block's content, the part that is this entry's.
        let part = |index: usize| {
            let number = first + index as u64;
            (number * BLOCK).max(start)..((number + 1) * BLOCK).min(end)
        };
        workers::for_each_index(workers::count(), blocks, |index, window: &mut Window| {
            let part = part(index);
            let len = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
            let content =
                self.plaintext.block(window, part.start)?.get(..len).ok_or_else(|| too_short(entry))?;
            crcs[index].store(crc32fast::hash(content), Ordering::Relaxed);
            FileWriter::starting_at(part.start - start, out, entry, progress).write(content)
        })?;
        let mut crc = Hasher::new();
        for (index, part_crc) in crcs.into_iter().enumerate() {
            let part = part(index);
            crc.combine(&Hasher::new_with_initial_len(part_crc.into_inner(), part.end - part.start));
        }
        check_crc(crc, entry, data)
    }
}

/// Runs of entries for one core each.
fn groups<'j, 'e>(files: &'j [Job<'e>]) -> Vec<&'j [Job<'e>]> {
    let mut groups = Vec::new();
    let mut rest = files;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(GROUP_ENTRIES).take_while(|(_, data)| {
            bytes += data.len;
            bytes <= GROUP
        });
        let (group, others) = rest.split_at(fits.count().max(1));
        groups.push(group);
        rest = others;
    }
    groups
}

fn check_crc(crc: Hasher, entry: &Entry, data: &Data) -> Result<()> {
    if crc.finalize() == data.crc {
        return Ok(());
    }
    Err(damaged(format!("the content of “{}” does not have its checksum", entry.path())))
}

fn too_short(entry: &Entry) -> Error {
    damaged(format!("the content of “{}” is cut off", entry.path()))
}
