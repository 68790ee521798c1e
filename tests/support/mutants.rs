//! Chains with structured faults: a good chain with up to three changes, each of which touches one rule.
//!
//! A seed always gives the same chain, so that a disagreement can be reproduced.

use super::test_certificates::{self, Key, Spec, cn, oid, policy, seq, tlv};

/// A chain and the changes that were made to it.
pub struct Mutant {
    pub seed: u64,
    /// Names of the changes; empty for a good chain.
    pub changes: Vec<&'static str>,
    /// Leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    pub root: Vec<u8>,
}

/// A deterministic random number generator (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Certificates before they are signed: the leaf first, the root last.  Certificate `i` has key `i`.
struct Chain {
    specs: Vec<Spec>,
    signers: Vec<usize>,
}

type Change = (&'static str, fn(&mut Chain, &mut Dice));

const CHANGES: &[Change] = &[
    ("basicConstraints of an authority", |chain, dice| {
        let i = authority(chain, dice);
        let ca = tlv(1, &[0xff]);
        let der = match dice.below(5) {
            0 => return edit(chain, i, |spec| spec.without(test_certificates::BASIC_CONSTRAINTS)),
            1 => seq::<Vec<u8>>(&[]),
            n => seq(&[ca, test_certificates::uint(n as u32 - 2)]),
        };
        let critical = dice.chance(70);
        edit(chain, i, |spec| spec.with(test_certificates::BASIC_CONSTRAINTS, critical, der));
    }),
    ("basicConstraints of the leaf", |chain, dice| {
        let ca = dice.chance(50);
        let der = if ca { seq(&[tlv(1, &[0xff])]) } else { seq::<Vec<u8>>(&[]) };
        edit(chain, 0, |spec| spec.with(test_certificates::BASIC_CONSTRAINTS, true, der));
    }),
    ("keyUsage", |chain, dice| {
        let i = dice.below(chain.specs.len());
        let sets: &[&[u8]] = &[&[0], &[5], &[6], &[5, 6], &[0, 5, 6], &[2], &[0, 4]];
        let (bits, critical) = (*dice.pick(sets), dice.chance(50));
        edit(chain, i, |spec| {
            spec.with(test_certificates::KEY_USAGE, critical, test_certificates::key_usage(bits))
        });
    }),
    ("keyUsage absent", |chain, dice| {
        let i = dice.below(chain.specs.len());
        edit(chain, i, |spec| spec.without(test_certificates::KEY_USAGE));
    }),
    ("extendedKeyUsage", |chain, dice| {
        let i = dice.below(chain.specs.len());
        let sets: &[&[&[u8]]] = &[
            &[test_certificates::CLIENT_AUTH],
            &[test_certificates::SERVER_AUTH],
            &[test_certificates::SERVER_AUTH, test_certificates::CLIENT_AUTH],
        ];
        let usages: Vec<Vec<u8>> = dice.pick(sets).iter().map(|u| oid(u)).collect();
        let critical = dice.chance(30);
        edit(chain, i, |spec| {
            spec.with(test_certificates::EXTENDED_KEY_USAGE, critical, seq(&usages))
        });
    }),
    ("anyExtendedKeyUsage", |chain, dice| {
        let i = dice.below(chain.specs.len());
        let der = seq(&[oid(test_certificates::ANY_USAGE)]);
        edit(chain, i, |spec| spec.with(test_certificates::EXTENDED_KEY_USAGE, false, der));
    }),
    ("validity", |chain, dice| {
        let i = dice.below(chain.specs.len());
        let (from, to) = *dice.pick(&[
            ("200101000000Z", "260531235959Z"),
            ("260601000001Z", "300101000000Z"),
            ("260601000000Z", "260601000000Z"),
            ("19500101000000Z", "20991231235959Z"),
            ("500101000000Z", "491231235959Z"),
        ]);
        edit(chain, i, |spec| spec.valid(from, to));
    }),
    ("another signer", |chain, dice| {
        let i = dice.below(chain.specs.len() - 1);
        chain.signers[i] = dice.below(8);
    }),
    ("issuer in another spelling", |chain, dice| {
        let i = dice.below(chain.specs.len() - 1);
        let text = format!("  aUTHORITY   {}", i + 1);
        chain.specs[i].issuer =
            test_certificates::name(&[(test_certificates::CN, 0x13, text.as_str())]);
    }),
    ("another issuer", |chain, dice| {
        let i = dice.below(chain.specs.len() - 1);
        let other = *dice.pick(&["Authority 9", "Authority", "device-1"]);
        chain.specs[i].issuer = cn(other);
    }),
    ("self-issued authority", |chain, dice| {
        if chain.specs.len() > 3 {
            let i = 1 + dice.below(chain.specs.len() - 3);
            let upper = chain.specs[i + 1].subject.clone();
            chain.specs[i].subject = upper.clone();
            chain.specs[i].issuer = upper.clone();
            chain.specs[i - 1].issuer = upper;
        }
    }),
    ("unknown extension", |chain, dice| {
        let (i, critical) = (dice.below(chain.specs.len()), dice.chance(50));
        edit(chain, i, |spec| spec.with(&[0x2a, 3, 4, 5], critical, tlv(5, &[])));
    }),
    ("serial number", |chain, dice| {
        let serials: &[&[u8]] = &[&[0x7f], &[0], &[0x80], &[0, 0xff], &[0x11; 20]];
        let (i, serial) = (dice.below(chain.specs.len() - 1), *dice.pick(serials));
        chain.specs[i].serial = serial.to_vec();
    }),
    ("key identifiers", |chain, _| {
        for i in 0..chain.specs.len() {
            let issuer = chain.signers[i];
            edit(chain, i, |spec| spec.key_ids(Key::number(i), Key::number(issuer)));
        }
    }),
    ("wrong key identifier", |chain, dice| {
        let i = dice.below(chain.specs.len() - 1);
        let wrong = dice.below(8);
        edit(chain, i, |spec| spec.key_ids(Key::number(i), Key::number(wrong)));
    }),
    ("names and constraints", constrain),
    ("names and constraints", constrain),
    ("names and constraints", constrain),
    ("names without constraints", |chain, dice| {
        let name = some_name(dice);
        let der = test_certificates::general_names(&[name]);
        edit(chain, 0, |spec| spec.with(test_certificates::SUBJECT_ALT_NAME, false, der));
    }),
    ("constraints on the leaf", |chain, _| {
        let der = test_certificates::name_constraints(&[(2, b"fleet.example".to_vec())], &[]);
        edit(chain, 0, |spec| spec.with(test_certificates::NAME_CONSTRAINTS, true, der));
    }),
    ("policies", policies),
    ("policies", policies),
    ("policies", policies),
    ("explicit policy without policies", |chain, dice| {
        let (i, skip) = (below_root(chain, dice), dice.below(4) as u32);
        let der = test_certificates::policy_constraints(Some(skip), None);
        edit(chain, i, |spec| spec.with(test_certificates::POLICY_CONSTRAINTS, true, der));
    }),
    ("an extension twice", |chain, dice| {
        let i = dice.below(chain.specs.len());
        if let Some(extension) = chain.specs[i].extensions.first().cloned() {
            chain.specs[i].extensions.push(extension);
        }
    }),
    ("version", |chain, dice| {
        let i = dice.below(chain.specs.len());
        chain.specs[i].version = 1 + dice.below(2) as u8;
        chain.specs[i].extensions.clear();
    }),
];

/// The chain of this seed.
pub fn mutant(seed: u64) -> Mutant {
    patched(seed, &[])
}

/// The chain of this seed with parts replaced by arbitrary bytes before signing.  A patch consists of a
/// certificate, a part, a length and that many bytes.
pub fn patched(seed: u64, mut patches: &[u8]) -> Mutant {
    let mut dice = Dice::new(seed);
    let intermediates = dice.below(4);
    let last = intermediates + 1;
    let authority_name = |i: usize| cn(&format!("Authority {i}"));
    let mut specs = vec![Spec::device(cn("device-1"), authority_name(1))];
    for i in 1..=last {
        let issuer = authority_name((i + 1).min(last));
        specs.push(Spec::authority(authority_name(i), issuer).serial(&[0x10 + i as u8]));
    }
    let signers = (0..=last).map(|i| (i + 1).min(last)).collect();
    let mut chain = Chain { specs, signers };
    let mut changes = Vec::new();
    for _ in 0..dice.below(4) {
        let (name, change) = dice.pick(CHANGES);
        change(&mut chain, &mut dice);
        changes.push(*name);
    }
    while let [certificate, part, length, rest @ ..] = patches {
        let (bytes, rest) = rest.split_at(rest.len().min(*length as usize));
        let i = *certificate as usize % chain.specs.len();
        patch(&mut chain.specs[i], *part as usize, bytes);
        patches = rest;
    }
    let mut made: Vec<Vec<u8>> = chain
        .specs
        .iter()
        .enumerate()
        .map(|(i, spec)| spec.sign(Key::number(i), Key::number(chain.signers[i])))
        .collect();
    let root = made.pop().expect("a root");
    Mutant { seed, changes, chain: made, root }
}

fn patch(spec: &mut Spec, part: usize, bytes: &[u8]) {
    const KNOWN: &[&[u8]] = &[
        test_certificates::BASIC_CONSTRAINTS,
        test_certificates::KEY_USAGE,
        test_certificates::EXTENDED_KEY_USAGE,
        test_certificates::SUBJECT_ALT_NAME,
        test_certificates::NAME_CONSTRAINTS,
        test_certificates::CERTIFICATE_POLICIES,
        test_certificates::POLICY_MAPPINGS,
        test_certificates::POLICY_CONSTRAINTS,
        test_certificates::INHIBIT_ANY_POLICY,
        test_certificates::SUBJECT_KEY_ID,
        test_certificates::AUTHORITY_KEY_ID,
    ];
    let count = spec.extensions.len();
    match part % 32 {
        0 => spec.serial = bytes.to_vec(),
        1 => spec.subject = bytes.to_vec(),
        2 => spec.issuer = bytes.to_vec(),
        3 => spec.not_after = String::from_utf8_lossy(bytes).into_owned(),
        // Some bytes of an extension in place, so that most of its structure stays.
        n @ 4..=15 if count > 0 => {
            let value = &mut spec.extensions[n % count].2;
            for pair in bytes.chunks_exact(2) {
                let at = pair[0] as usize % value.len().max(1);
                if let Some(byte) = value.get_mut(at) {
                    *byte = pair[1];
                }
            }
        }
        n => {
            let kind = KNOWN[n % KNOWN.len()].to_vec();
            spec.extensions.push((kind, n % 2 == 0, bytes.to_vec()));
        }
    }
}

fn edit(chain: &mut Chain, i: usize, change: impl FnOnce(Spec) -> Spec) {
    chain.specs[i] = change(chain.specs[i].clone());
}

fn authority(chain: &Chain, dice: &mut Dice) -> usize {
    1 + dice.below(chain.specs.len() - 1)
}

fn below_root(chain: &Chain, dice: &mut Dice) -> usize {
    dice.below(chain.specs.len() - 1)
}

fn some_name(dice: &mut Dice) -> (u8, Vec<u8>) {
    let text: &[(u8, &str)] = &[
        (1, "ops@fleet.example"),
        (1, "Ops@a.fleet.example"),
        (1, "ops@other.example"),
        (2, "fleet.example"),
        (2, "a.Fleet.example"),
        (2, "a.b.fleet.example"),
        (2, "fleet.example.org"),
        (2, "*.fleet.example"),
        (6, "https://fleet.example/x"),
        (6, "https://a.fleet.example:8443/x"),
        (6, "https://other.example"),
    ];
    match dice.below(4) {
        0 => (7, dice.pick(&[vec![10, 0, 0, 1], vec![192, 0, 2, 9], vec![0x20; 16]]).clone()),
        1 => (
            4,
            test_certificates::name(&[(
                test_certificates::O,
                0x0c,
                *dice.pick(&["Acme", "ACME", "Other"]),
            )]),
        ),
        _ => {
            let (form, text) = *dice.pick(text);
            (form, text.as_bytes().to_vec())
        }
    }
}

fn some_base(dice: &mut Dice) -> (u8, Vec<u8>) {
    let text: &[(u8, &str)] = &[
        (1, "ops@fleet.example"),
        (1, "fleet.example"),
        (1, ".fleet.example"),
        (2, "fleet.example"),
        (2, "a.fleet.example"),
        (2, "Example"),
        (6, "fleet.example"),
        (6, ".fleet.example"),
    ];
    match dice.below(4) {
        0 => (7, vec![10, 0, 0, 0, 255, 0, 0, 0]),
        1 => (4, test_certificates::name(&[(test_certificates::O, 0x13, "acme")])),
        _ => {
            let (form, text) = *dice.pick(text);
            (form, text.as_bytes().to_vec())
        }
    }
}

fn constrain(chain: &mut Chain, dice: &mut Dice) {
    let i = authority(chain, dice);
    let bases: Vec<_> = (0..=dice.below(2)).map(|_| some_base(dice)).collect();
    let der = if dice.chance(60) {
        test_certificates::name_constraints(&bases, &[])
    } else {
        test_certificates::name_constraints(&[], &bases)
    };
    let critical = dice.chance(80);
    edit(chain, i, |spec| spec.with(test_certificates::NAME_CONSTRAINTS, critical, der));
    let named = if dice.chance(80) { 0 } else { below_root(chain, dice) };
    let names: Vec<_> = (0..=dice.below(2)).map(|_| some_name(dice)).collect();
    let der = test_certificates::general_names(&names);
    edit(chain, named, |spec| spec.with(test_certificates::SUBJECT_ALT_NAME, false, der));
}

/// Policies for every certificate below the root, with constraints that make them relevant.
fn policies(chain: &mut Chain, dice: &mut Dice) {
    let number =
        |n: usize| if n == 0 { test_certificates::ANY_POLICY.to_vec() } else { policy(n as u8) };
    for i in 0..chain.specs.len() - 1 {
        if dice.chance(10) {
            continue;
        }
        let mut of: Vec<usize> = (0..=dice.below(2)).map(|_| dice.below(4)).collect();
        of.sort_unstable();
        of.dedup();
        let der = test_certificates::policies(&of.into_iter().map(number).collect::<Vec<_>>());
        let critical = dice.chance(50);
        edit(chain, i, |spec| spec.with(test_certificates::CERTIFICATE_POLICIES, critical, der));
        if i > 0 && dice.chance(40) {
            // One in ten maps anyPolicy, which is forbidden.
            let lowest = usize::from(!dice.chance(10));
            let mut pair = || number(lowest + dice.below(4 - lowest));
            let der = test_certificates::mappings(&[(pair(), pair())]);
            edit(chain, i, |spec| spec.with(test_certificates::POLICY_MAPPINGS, true, der));
        }
        if dice.chance(25) {
            let der = test_certificates::uint(dice.below(3) as u32);
            edit(chain, i, |spec| spec.with(test_certificates::INHIBIT_ANY_POLICY, true, der));
        }
        if dice.chance(40) {
            let explicit = dice.chance(70).then(|| dice.below(3) as u32);
            let mapping = (explicit.is_none() || dice.chance(30)).then(|| dice.below(3) as u32);
            let der = test_certificates::policy_constraints(explicit, mapping);
            edit(chain, i, |spec| spec.with(test_certificates::POLICY_CONSTRAINTS, true, der));
        }
    }
}
