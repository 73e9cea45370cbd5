//! The objects of a token, one class at a time. Others make and destroy them meanwhile: other sessions, other workers, other programs.

use cryptoki::{
    error::RvError,
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, SessionState},
};

use super::rv::Failure;

/// The objects of one class that the token listed.
pub(super) struct Listed<'a> {
    session: &'a Session,
    template: [Attribute; 2],
    handles: Vec<ObjectHandle>,
}

impl<'a> Listed<'a> {
    /// Asks the token.
    pub(super) fn of(session: &'a Session, class: ObjectClass) -> Result<Self, Failure> {
        let template = [Attribute::Class(class), Attribute::Token(true)];
        let handles = session.find_objects(&template)?;
        Ok(Self { session, template, handles })
    }

    pub(super) fn handles(&self) -> Vec<ObjectHandle> {
        self.handles.clone()
    }

    /// What came of looking at one of them. `None`: it was destroyed since it was listed.
    pub(super) fn unless_gone<T>(
        &self,
        handle: ObjectHandle,
        looked: Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        match looked {
            Ok(seen) => Ok(Some(seen)),
            Err(failure) if self.is_gone(handle, &failure)? => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn is_gone(&self, handle: ObjectHandle, failure: &Failure) -> Result<bool, Failure> {
        if !matches!(failure.code, Some(RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid)) {
            return Ok(false);
        }
        // A session whose login is gone lists no private objects: that says nothing of any of them.
        let state = self.session.get_session_info()?.session_state();
        let sees_all = matches!(state, SessionState::RoUser | SessionState::RwUser);
        Ok(sees_all && !self.session.find_objects(&self.template)?.contains(&handle))
    }
}
