//! `custodianctl audit witness`: a witness of custodians' logs, on another machine.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Subcommand;

use super::{message::note, output::print};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    witness::{Folder, Witness, serve},
};

#[derive(Debug, Subcommand)]
pub(super) enum WitnessCommand {
    /// Make a witness: its key, and a folder for the logs' keys. Prints its public key
    Init {
        /// Its name: witness.example.com/w1
        #[arg(long)]
        name: String,
        /// The folder; made if it is missing
        #[arg(long)]
        dir: PathBuf,
    },
    /// Cosign checkpoints (C2SP tlog-witness over HTTP), until SIGTERM or Ctrl-C
    Serve {
        /// The folder that init made, with the logs' public keys in logs/NAME.pub
        #[arg(long)]
        dir: PathBuf,
        /// Where to listen
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
    },
}

impl WitnessCommand {
    pub(super) fn run(self, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Init { name, dir } => {
                let (folder, key) = Folder::create(&dir, &name)?;
                note(&format!(
                    "put the public keys of the logs to watch into {}, as NAME.pub; this is the witness's own:",
                    folder.logs_path().display()
                ));
                print(&format!("{key}\n")).map(drop)
            }
            Self::Serve { dir, listen } => {
                let folder = Folder::at(&dir);
                let _lock = folder.lock()?;
                let witness = Arc::new(Witness::open(folder)?);
                for log in witness.logs() {
                    note(&format!("watching {}", log.name()));
                }
                let cannot =
                    |why: std::io::Error| Error::new(Kind::Local, format!("cannot listen on {listen}"), why);
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(cannot)?;
                // If nobody reads it, there is nobody to tell.
                let ready = |address| drop(print(&format!("ready {address}\n")));
                runtime.block_on(serve(witness, listen, ready, note, interrupt.wait())).map_err(cannot)
            }
        }
    }
}
