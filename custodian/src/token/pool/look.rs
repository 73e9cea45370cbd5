//! Looks into tokens, for keys that are new there.

use std::{sync::Arc, time::Instant};

use tokio::task::JoinSet;
use tracing::warn;

use super::{line::Line, member::Miss};
use crate::token::TokenError;

/// [`look`], where nobody waits for what is found: a worker that cannot look now learns of new keys at its next start.
pub(super) async fn learn(lines: &[Arc<Line>], deadline: Instant) {
    if lines.is_empty() {
        return;
    }
    if let Err(reason) = look(lines, deadline).await {
        warn!(%reason, "a token's workers do not look into it: keys that are new there are served after their next start");
    }
}

/// Lets the tokens behind these lines be looked into, so that their workers know every key. One that answers is enough.
pub(super) async fn look(lines: &[Arc<Line>], deadline: Instant) -> Result<(), TokenError> {
    let mut looks = JoinSet::new();
    for line in lines.iter().filter(|line| line.member().is_some()) {
        let line = Arc::clone(line);
        looks.spawn(async move {
            let _counted = line.begin();
            match line.member() {
                Some(member) => member.survey(deadline).await.map(drop),
                None => Err(Miss::Gone),
            }
        });
    }
    let mut looked = Err(TokenError::Unavailable("no token worker serves".to_owned()));
    while let Some(ended) = looks.join_next().await {
        match ended {
            Ok(Ok(())) => looked = Ok(()),
            Ok(Err(miss)) if looked.is_err() => looked = Err(miss.into()),
            Ok(Err(miss)) => warn!(reason = %TokenError::from(miss), "a worker does not look into its token"),
            Err(error) => warn!(%error, "the look into a token broke down"),
        }
    }
    looked
}
