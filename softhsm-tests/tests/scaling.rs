//! The model behind `docs/scaling.md`: that its closed forms and its simulation agree, and that the document shows its tables.

use softhsm_tests::scaling::{
    Commits, Inputs, Servers, Sojourns, arrivals, tables, through_commits, through_servers,
};

const REQUESTS: usize = 300_000;

fn assert_close(what: &str, computed: f64, simulated: f64, within: f64) {
    let off = computed / simulated - 1.0;
    assert!(off.abs() <= within, "{what}: computed {computed}, simulated {simulated}, off by {off:.3}");
}

#[test]
fn the_closed_form_of_servers_is_what_a_simulation_finds() {
    for count in [1, 2, 8, 32] {
        let servers = Servers { count, each: 0.002 };
        for busy in [0.1, 0.5, 0.7, 0.9] {
            let rate = servers.most() * busy;
            let arrived = arrivals(rate, REQUESTS, 1);
            let simulated = Sojourns::of(&arrived, &through_servers(&arrived, &servers));
            let what = format!("{count} servers, {busy} busy");
            assert_close(&what, servers.sojourn(rate), simulated.mean(), 0.03);
        }
        assert_eq!(servers.sojourn(servers.most()), f64::INFINITY);
    }
}

#[test]
fn the_closed_form_of_commits_is_what_a_simulation_finds() {
    for gather in [0.0, 0.004] {
        for each in [0.0, 0.00003] {
            let commits = Commits { gather, fixed: 0.0004, each, most_in_one: 512.0 };
            for rate in [10.0, 500.0, 2_000.0, 10_000.0, 20_000.0] {
                let arrived = arrivals(rate, REQUESTS, 2);
                let simulated = Sojourns::of(&arrived, &through_commits(&arrived, &commits));
                let what = format!("commits that gather {gather}, {each} a record, {rate} a second");
                assert_close(&what, commits.sojourn(rate), simulated.mean(), 0.05);
            }
        }
    }
}

#[test]
fn a_ledger_ends_where_a_simulated_one_falls_behind() {
    let commits = Commits { gather: 0.0, fixed: 0.0004, each: 0.00003, most_in_one: 512.0 };
    let lasts = |share: f64| {
        let arrived = arrivals(commits.most() * share, REQUESTS, 3);
        let ends = through_commits(&arrived, &commits);
        ends[REQUESTS - 1] - arrived[REQUESTS - 1]
    };
    assert!(lasts(0.97) < 0.1, "{}", lasts(0.97));
    assert!(lasts(1.1) > 0.5, "{}", lasts(1.1));
    assert_eq!(commits.sojourn(commits.most()), f64::INFINITY);
}

/// A document that says something else than the model would mislead whoever buys by it.
#[test]
fn the_document_shows_the_tables_that_the_model_prints() {
    let document = include_str!("../../docs/scaling.md");
    for table in tables(&Inputs::default()) {
        assert!(
            document.contains(&table),
            "docs/scaling.md lacks this table (run the example scaling):\n{table}"
        );
    }
}
