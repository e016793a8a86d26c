//! Rules that are broken on purpose are seen: else the invariants would prove nothing.

use hyperscale_sim::{Mutation, Options, run};

/// Whether one of these seeds shows the mutation.
fn is_found(mutation: Mutation, mut seeds: impl Iterator<Item = u64>) -> bool {
    let options = Options { faults: true, mutation: Some(mutation), ..Options::default() };
    seeds.any(|seed| run(seed, &options).violation.is_some())
}

#[test]
fn chs_03_each_broken_rule_is_found() {
    for &mutation in Mutation::ALL {
        assert!(is_found(mutation, 0..200), "nothing sees `{mutation}`");
    }
}
