//! Rules that are broken on purpose are seen: else the invariants would prove nothing.

use hyperscale_sim::{Mutation, Options, run};

/// Whether one of these seeds shows the mutation.
fn is_found(mutation: Mutation, mut seeds: impl Iterator<Item = u64>) -> bool {
    let kind = mutation.kind();
    let falls = mutation.needs_takeovers();
    let mutation = Some(mutation);
    let options = Options { kind, faults: true, falls, mutation, ..Options::default() };
    seeds.any(|seed| run(seed, &options).violation.is_some())
}

/// A seed that showed the mutation once, to begin with; 0 where nearly every seed does.
const fn hint(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::ForgetBlobs | Mutation::EarlyCompletion => 0,
        Mutation::EarlyRedispatch
        | Mutation::CountDuplicates
        | Mutation::ReleaseTwice
        | Mutation::OldSteering
        | Mutation::SkipBarrier
        | Mutation::ProgressByFence => 1,
        Mutation::StretchLease => 2,
        Mutation::ServeUnconfirmed | Mutation::ForgetSteering | Mutation::IgnoreLeadershipLoss => 3,
        Mutation::AcceptLowerFence
        | Mutation::LoseWrites
        | Mutation::SentProbeIsLife
        | Mutation::WaitAlone => 5,
        Mutation::LoseCheckpoints | Mutation::LoseChanges => 6,
        Mutation::ForgetCopies => 7,
        Mutation::ForgetLostRows => 12,
        Mutation::RecomputeContext => 2,
        Mutation::ForgetAbort | Mutation::DrawAgain => 8,
        Mutation::LoseCancel => 240,
        Mutation::ForgetUnheard => 56,
        Mutation::IgnoreLease => 27,
        Mutation::DropResult => 28,
    }
}

#[test]
fn chs_03_each_broken_rule_is_found() {
    for &mutation in Mutation::ALL {
        let seeds = std::iter::once(hint(mutation)).chain(0..200);
        assert!(is_found(mutation, seeds), "nothing sees `{mutation}`");
    }
}
