//! Second factors: each code is good once, wrong ones lock, and what was taken back allows nothing.

use std::sync::Arc;

use custodian_proto::refusal::Refusal;

use super::{refusals::futures, world::*};
use crate::{
    authority::{
        Factor, FactorProof, FactorRule, FactorState, MayLack, RecoveryHash, SealedSecret, Session,
        SessionId, SpkiHash, Standing, WrongCodes,
    },
    custody::Denial,
    ledger::{Change, Changed, Intent, Ledger, Outcome},
};

const FIRST: SessionId = SessionId([1; 32]);

fn secret(byte: u8) -> SealedSecret {
    SealedSecret(vec![byte; 48])
}

fn code(step: u64) -> FactorProof {
    FactorProof::Code { step, secret: secret(1) }
}

fn recovery(byte: u8) -> FactorProof {
    FactorProof::Recovery(RecoveryHash([byte; 32]))
}

impl<L: Ledger> World<L> {
    /// Gives anna a second factor, confirmed with a code of this step in her first session.
    async fn enrolled(&self, step: u64) {
        self.done(Change::PendFactor { session: FIRST, secret: secret(1) }).await;
        self.done(self.confirms(1, step)).await;
    }

    fn confirms(&self, pending: u8, step: u64) -> Change {
        let recovery = (0..3).map(|byte| RecoveryHash([byte; 32])).collect();
        Change::ConfirmFactor { session: FIRST, secret: secret(pending), step, recovery }
    }

    /// When this session showed the factor.
    async fn session(&self, id: u8) -> Session {
        let identity = self.ledger.identify(SpkiHash([1; 32]), Some(SessionId([id; 32]))).await.unwrap();
        identity.session.unwrap()
    }

    async fn factor(&self) -> Factor {
        self.ledger.factor(&user_id("anna")).await.unwrap().unwrap()
    }

    /// Another session of anna, which has shown nothing.
    async fn another(&self, id: u8) -> SessionId {
        self.done(Change::OpenSession(session(id, "anna", 1))).await;
        SessionId([id; 32])
    }

    /// A wrong code of anna is recorded.
    async fn wrong_code(&self) -> &'static str {
        let intent = Intent { user: "users/anna".to_owned(), ..intent("StepUp") };
        let denial = Denial::from(Refusal::FactorRefused);
        let settled = self.ledger.settle(self.ledger.begin(intent), Outcome::WrongCode(denial)).await;
        settled.err().unwrap().code()
    }
}

pub(crate) async fn a_second_factor_is_confirmed_replaced_and_reset<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    assert!(!world.ledger.has_factors().await.unwrap());
    assert_eq!(world.factor().await, Factor::default());
    assert_eq!(world.ledger.factor(&user_id("bob")).await.unwrap(), None);
    world.refuses_change(world.confirms(1, 7), Refusal::StateConflict).await;
    // The second enrolment is the one that counts.
    for byte in [9, 1] {
        world.done(Change::PendFactor { session: FIRST, secret: secret(byte) }).await;
    }
    world.refuses_change(world.confirms(9, 7), Refusal::StateConflict).await;
    assert!(!world.ledger.has_factors().await.unwrap());
    world.done(world.confirms(1, 7)).await;
    assert!(world.ledger.has_factors().await.unwrap());
    let factor = world.factor().await;
    assert_eq!((factor.secret, factor.pending, factor.recovery.len()), (Some(secret(1)), None, 3));
    assert!(world.session(1).await.factor.is_some());

    // Only a session that showed it a moment ago may replace it.
    let other = world.another(2).await;
    let pend = |session| Change::PendFactor { session, secret: secret(2) };
    world.refuses_change(pend(other), Refusal::StepUpRequired).await;
    world.done(pend(FIRST)).await;
    let stolen = Change::ConfirmFactor { session: other, secret: secret(2), step: 9, recovery: Vec::new() };
    world.refuses_change(stolen, Refusal::StepUpRequired).await;
    world.done(Change::ShowFactor { session: other, proof: code(8) }).await;
    world.done(pend(other)).await;
    world.done(world.confirms(2, 9)).await;
    assert_eq!(world.factor().await.secret, Some(secret(2)));
    // A code of the old one, though newer than any that was used.
    world
        .refuses_change(Change::ShowFactor { session: other, proof: code(10) }, Refusal::FactorRefused)
        .await;

    let Changed::User(anna) = world.done(Change::ResetFactor { id: user_id("anna") }).await else { panic!() };
    assert_eq!(anna.factor, FactorState::default());
    assert_eq!(world.factor().await, Factor::default());
    assert!(!world.ledger.has_factors().await.unwrap());
    world.refuses(world.standing(), Refusal::NotLoggedIn).await;
    world.refuses_change(Change::ResetFactor { id: user_id("bob") }, Refusal::NotFound).await;
}

pub(crate) async fn a_code_is_good_once<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.enrolled(100).await;
    let session = world.another(2).await;
    let show = |step| Change::ShowFactor { session, proof: code(step) };
    // The one that confirmed it is used up, and so is every earlier one.
    for step in [99, 100] {
        world.refuses_change(show(step), Refusal::FactorRefused).await;
    }
    assert_eq!(world.session(2).await.factor, None);
    world.done(show(102)).await;
    assert!(world.session(2).await.factor.is_some());
    for step in [101, 102] {
        world.refuses_change(show(step), Refusal::FactorRefused).await;
    }
    world.done(show(103)).await;
}

pub(crate) async fn a_recovery_code_is_good_once<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.enrolled(100).await;
    let session = world.another(2).await;
    let show = |byte| Change::ShowFactor { session, proof: recovery(byte) };
    world.done(show(1)).await;
    assert!(world.session(2).await.factor.is_some());
    world.refuses_change(show(1), Refusal::FactorRefused).await;
    world.refuses_change(show(7), Refusal::FactorRefused).await;
    world.done(show(2)).await;
    assert_eq!(world.factor().await.recovery, [RecoveryHash([0; 32])]);
}

pub(crate) async fn of_two_uses_of_a_code_one_is_refused<L: Ledger>(ledger: Arc<L>) {
    let world = Arc::new(World::peopled(ledger).await);
    world.enrolled(100).await;
    for proof in [code(101), recovery(1)] {
        let uses = (0..8).map(|_| {
            let (world, proof) = (Arc::clone(&world), proof.clone());
            tokio::spawn(
                async move { world.change(Change::ShowFactor { session: FIRST, proof }).await.is_ok() },
            )
        });
        let accepted = futures(uses.collect()).await.into_iter().filter(|accepted| *accepted).count();
        assert_eq!(accepted, 1);
    }
}

pub(crate) async fn wrong_codes_lock_the_factor_and_a_right_one_forgives_them<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.enrolled(100).await;
    let show = |step| Change::ShowFactor { session: FIRST, proof: code(step) };
    for _ in 0..4 {
        assert_eq!(world.wrong_code().await, "FACTOR_REFUSED");
    }
    world.done(show(101)).await;
    assert_eq!(world.factor().await.wrong.count, 0);
    for _ in 0..5 {
        world.wrong_code().await;
    }
    let WrongCodes { count, last } = world.factor().await.wrong;
    assert!(count == 5 && last > ago(60));
    // A right one that was judged before the fifth wrong one was recorded comes too late, too.
    world.refuses_change(show(102), Refusal::FactorLocked).await;
    world
        .refuses_change(Change::ShowFactor { session: FIRST, proof: recovery(1) }, Refusal::FactorLocked)
        .await;
    assert_eq!(world.factor().await.recovery.len(), 3);
    world.done(Change::ResetFactor { id: user_id("anna") }).await;
    assert_eq!(world.factor().await.wrong.count, 0);
}

pub(crate) async fn a_session_lacks_what_its_user_must_have<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let require = |rule| Change::RequireFactor { id: user_id("anna"), rule };
    let Changed::User(anna) = world.done(require(FactorRule::Always)).await else { panic!() };
    assert_eq!(anna.factor, FactorState { rule: FactorRule::Always, enrolled: false });
    let lacking = |may_lack| Standing { may_lack, role: None, key: None, ..world.standing() };
    world.refuses(lacking(MayLack::Nothing), Refusal::FactorMissing).await;
    assert!(world.unwraps(lacking(MayLack::SecondFactor)).await.is_ok());
    assert!(world.unwraps(lacking(MayLack::Everything)).await.is_ok());
    world.enrolled(100).await;
    assert!(world.unwraps(world.standing()).await.is_ok(), "it has just been shown");
    let session = Some(world.another(2).await);
    let other = |may_lack| Standing { session, ..lacking(may_lack) };
    world.refuses(other(MayLack::Nothing), Refusal::StepUpRequired).await;
    assert!(world.unwraps(other(MayLack::SecondFactor)).await.is_ok());
    world.done(require(FactorRule::AsPolicySays)).await;
    assert!(world.unwraps(other(MayLack::Nothing)).await.is_ok());
}

/// Law 2: what the policy looked at is read again.
pub(crate) async fn a_factor_that_was_taken_back_stops_what_it_allowed<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let shown_by = |shown: Option<_>| Standing { factor: shown, ..world.standing() };
    world.refuses(shown_by(Some(ago(60))), Refusal::FactorMissing).await;
    world.enrolled(100).await;
    let shown = world.session(1).await.factor;
    assert!(shown.is_some());
    for standing in [shown_by(None), shown_by(Some(ago(60))), shown_by(shown)] {
        assert!(world.unwraps(standing).await.is_ok());
    }
    world.refuses(shown_by(Some(ahead(60))), Refusal::StepUpRequired).await;
    // Begun before, settled after.
    world.done(Change::ResetFactor { id: user_id("anna") }).await;
    world.refuses(shown_by(shown), Refusal::NotLoggedIn).await;
    // A login afterwards is not what the factor was shown in.
    world.done(Change::OpenSession(session(1, "anna", 1))).await;
    world.refuses(shown_by(shown), Refusal::FactorMissing).await;
}
