//! Many file keys in one call.

use custodian_proto::{
    key::FileKey,
    limits::MAX_BATCH_ITEMS,
    refusal::Refusal,
    v1::{self, custody_service_client::CustodyServiceClient, unwrap_batch_response::Outcome},
};
use tonic::Status;

use super::{
    Remote,
    custody::{ReceiptWanted, WHAT, file_key, request},
    status::{self, Failure},
};
use crate::{
    ahead::Question,
    error::{Error, Kind, Result},
};

impl Remote {
    /// Asks many questions, and tells each answer as it comes, by the question's number. Nobody is asked for a password, a code or
    /// patience: what these would change is left out, to be asked for by itself ([`Remote::unwrap_recorded`]).
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted. The answers that were told stand.
    pub fn unwrap_many(
        &self,
        questions: &[Question],
        told: &mut dyn FnMut(usize, Result<FileKey>),
    ) -> Result<()> {
        for (number, batch) in questions.chunks(MAX_BATCH_ITEMS).enumerate() {
            let first = number * MAX_BATCH_ITEMS;
            self.unwrap_batch(batch, &mut |index, answer| told(first + index, answer))?;
        }
        Ok(())
    }

    fn unwrap_batch(
        &self,
        questions: &[Question],
        told: &mut dyn FnMut(usize, Result<FileKey>),
    ) -> Result<()> {
        let session = self.slot().clone();
        let session = session.ok_or_else(|| Error::new(Kind::Refused, WHAT, Refusal::NotLoggedIn))?;
        let items: Vec<_> =
            (0..).zip(questions).map(|(reference, question)| item(reference, question)).collect();
        let mut answers = self.wire.ask(WHAT, async |channel| {
            let service = session.sign(channel, self.glass);
            CustodyServiceClient::new(service).unwrap_batch(tokio_stream::iter(items.clone())).await
        })?;
        while let Some(answer) = self.wire.next_in_time(WHAT, &mut answers)? {
            let index = usize::try_from(answer.reference).ok().filter(|index| *index < questions.len());
            let index = index.ok_or_else(|| no_sense("to something that was not asked"))?;
            match answer.outcome {
                Some(Outcome::Released(mut released)) => told(index, file_key(&mut released)),
                Some(Outcome::Denied(denial)) => {
                    let failure = denied(denial);
                    if !self.may_be_healed(&failure) {
                        told(index, Err(failure.error));
                    }
                }
                None => return Err(no_sense("without an outcome")),
            }
        }
        Ok(())
    }

    /// Whether the same request by itself might have another answer now, or after somebody was asked for something.
    fn may_be_healed(&self, failure: &Failure) -> bool {
        match failure.refusal {
            // A fault of the custodian's.
            None => true,
            Some(
                Refusal::NotLoggedIn | Refusal::StepUpRequired | Refusal::Overloaded | Refusal::PolicyChanged,
            ) => true,
            Some(Refusal::ApprovalRequired | Refusal::TooManyPending) => self.patience.is_some(),
            Some(_) => false,
        }
    }
}

fn item(reference: u64, question: &Question) -> v1::UnwrapBatchRequest {
    v1::UnwrapBatchRequest {
        reference,
        unwrap: Some(request(&question.wrapped, &question.claims, ReceiptWanted::No)),
    }
}

fn denied(denial: v1::ItemDenial) -> Failure {
    let v1::ItemDenial { code, message, details } = denial;
    status::failure(WHAT, &Status::with_details(code.into(), message, details.into()))
}

fn no_sense(how: &str) -> Error {
    Error::new(Kind::Unreachable, WHAT, format!("the custodian's answer makes no sense: it is {how}"))
}
