//! What every ledger promises: a suite that each implementation passes.

pub(crate) mod approvals;
pub(crate) mod budgets;
pub(crate) mod certificates;
pub(crate) mod changes;
pub(crate) mod factors;
pub(crate) mod log;
pub(crate) mod refusals;
pub(crate) mod releases;
pub(crate) mod world;

/// Makes a test of each promise. `$make` makes an empty ledger with the options of [`world::options`].
macro_rules! ledger_keeps_its_contract {
    ($make:expr) => {
        ledger_keeps_its_contract! { $make;
            approvals: what_others_approved_passes_once, the_same_request_waits_for_the_same_approval,
                an_approval_is_for_what_was_asked_and_by_whom, nobody_counts_twice_and_the_requester_never,
                whoever_was_stopped_does_not_count, a_device_whose_suspension_has_ended_counts_as_any_other,
                a_denied_request_stays_denied_for_its_time, an_approval_ends_on_time,
                of_two_at_once_one_uses_the_approval, what_fails_does_not_use_the_approval_up,
                the_requests_of_one_user_that_wait_are_bounded, breaking_the_glass_stands_out_in_the_log,
                a_request_is_withdrawn_by_who_made_it_and_nobody_else,
                a_policy_needs_enough_administrators_for_the_next_one;
            changes: an_invitation_is_used_once, an_invitation_is_for_one_device, an_expired_invitation_is_replaced,
                an_open_invitation_is_replaced_by_the_next, an_invitation_is_withdrawn, a_device_is_renewed_with_an_invitation,
                a_revoked_device_is_not_renewed, revoking_again_changes_nothing, the_last_administrator_stays,
                the_last_active_device_stays,
                ids_and_keys_of_devices_are_not_used_twice, a_device_lives_as_it_should,
                stopping_a_device_ends_its_sessions, a_suspension_with_an_end_ends_by_itself,
                a_device_renews_itself_and_the_old_key_is_nobodys, the_revocation_list_has_what_is_stopped_or_replaced, users_are_created_once, stopping_a_user_ends_the_sessions,
                a_user_stopped_until_a_time_is_let_in_by_itself,
                a_new_password_ends_the_other_sessions, a_given_password_must_be_changed_first, a_password_that_changes_during_a_login_stops_it,
                roles_are_replaced, keys_have_ids_and_labels_of_their_own, a_label_keeps_its_purpose, keys_live_as_they_should,
                a_rotation_ends_sealing_to_the_version_before, tokens_are_drained_and_resumed,
                sessions_open_only_for_enabled_users, what_is_not_there_cannot_be_changed,
                a_refused_change_changes_nothing, lists_are_paged_in_order;
            certificates: a_certificate_says_what_is_recorded_or_is_not_added,
                an_address_is_one_users_and_what_is_not_true_any_more_is_revoked, a_key_is_one_persons_for_one_use,
                only_what_may_be_used_now_is_found, who_has_a_second_factor_shows_it_for_a_certificate;
            factors: a_second_factor_is_confirmed_replaced_and_reset, a_code_is_good_once, a_recovery_code_is_good_once,
                of_two_uses_of_a_code_one_is_refused, wrong_codes_lock_the_factor_and_a_right_one_forgives_them,
                a_session_lacks_what_its_user_must_have, a_factor_that_was_taken_back_stops_what_it_allowed;
            log: a_record_says_who_what_where_and_when, a_record_names_what_was_changed, texts_are_cut_and_cannot_fool_a_terminal,
                every_filter_finds_its_records, pages_follow_each_other_in_both_directions,
                numbers_have_no_gap_under_load, the_last_number_is_announced,
                an_attempt_that_is_dropped_is_recorded_as_unknown, the_log_is_a_merkle_tree_of_its_records;
            refusals: a_device_must_be_active, a_clock_that_was_set_lets_nothing_live_for_ever, a_session_must_be_alive, a_session_works_on_its_device_alone,
                a_user_must_be_enabled_and_have_the_role, a_wrapping_key_unwraps_as_its_state_allows, a_signing_key_signs_while_it_is_active, nothing_is_said_of_a_key_that_has_changed_meanwhile,
                a_key_that_stops_after_the_permit_unwraps_no_more, a_wrapping_key_unwraps_within_its_period, a_role_needs_a_session, a_policy_that_changed_meanwhile_stops_what_it_allowed, policies_follow_each_other, other_roles_stop_what_the_policy_allowed, other_groups_stop_what_the_policy_allowed,
                fewer_witnesses_stop_what_the_policy_allowed;
            releases: a_grant_marks_the_session_as_used, reading_marks_the_session_as_used, a_revocation_that_has_returned_is_never_overtaken,
                a_denied_attempt_is_recorded_and_denied;
        }
    };
    ($make:expr; $($module:ident: $($promise:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let ledger = std::sync::Arc::new($make);
                crate::ledger::contract::$module::$promise(ledger).await;
            }
        )+)+
    };
}
pub(crate) use ledger_keeps_its_contract;

/// Makes a test of each promise about budgets. `$make` makes an empty ledger that goes by the clock it is given.
macro_rules! ledger_keeps_budgets {
    ($make:expr) => {
        ledger_keeps_budgets! { $make;
            each_budget_has_its_boundary, a_file_is_charged_once_however_often_it_is_opened,
            many_at_once_never_exceed_a_budget, an_hour_and_a_day_turn, a_clock_set_back_or_forward_gives_no_more,
            all_three_are_charged_or_none, what_is_refused_early_is_what_would_be_refused_late,
            exceeding_a_budget_is_told_once, rejected_ciphertexts_are_charged_as_good_ones,
            guessing_locks_the_user_on_the_device, many_guesses_at_once_are_not_more,
            a_lift_is_counted_and_ends, many_at_once_use_no_more_than_a_lift, a_lift_is_replaced_and_taken_back,
            a_lock_is_ended, many_files_fit_if_each_would, what_was_spent_is_listed,
        }
    };
    ($make:expr; $($promise:ident),+,) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let clock = crate::ledger::contract::world::TestClock::new();
                let ledger = std::sync::Arc::new($make(&clock));
                crate::ledger::contract::budgets::$promise(ledger, clock).await;
            }
        )+
    };
}
pub(crate) use ledger_keeps_budgets;
