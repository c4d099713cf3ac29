//! The smoke: seeds, and mutations of them by a generator that says the same every time. Shared by the tests
//! `fuzz_smoke` of the crates whose functions are fuzzed.

/// Mutated inputs per target: about a second in a debug build.
const ROUNDS: usize = 5_000;

/// Longest mutated input; longer seeds are cut.
const INPUT_MAX: usize = 2048;

/// Values that sit on the edges of the formats.
const EDGES: [u8; 10] = [0, 1, 125, 126, 127, 128, 0x88, 0x89, 0xfe, 0xff];

/// SplitMix64: small, and good enough to mutate.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27) % end.max(1) as u64) as usize
    }
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len());
        match (random.below(6), input.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << random.below(8),
            (1, Some(byte)) => *byte = EDGES[random.below(EDGES.len())],
            (2, Some(_)) => input.truncate(at),
            (3, Some(_)) => drop(input.remove(at)),
            (4, _) => {
                let from = random.below(other.len());
                let part = &other[from..(from + 1 + random.below(40)).min(other.len())];
                input.splice(at..at, part.iter().copied());
            }
            _ => input.insert(at, random.below(256) as u8),
        }
    }
    input.truncate(INPUT_MAX);
}

/// Runs a target on its seeds and on mutations of them.
pub(crate) fn smoke(seeds: Vec<Vec<u8>>, run: fn(&[u8])) {
    run(&[]);
    for seed in &seeds {
        run(seed);
    }
    let (mut random, mut pool) = (Random(1), seeds);
    for _ in 0..ROUNDS {
        let other = pool[random.below(pool.len())].clone();
        let mut input = pool[random.below(pool.len())].clone();
        input.truncate(INPUT_MAX);
        mutate(&mut random, &mut input, &other);
        run(&input);
        // Mutations of mutations go deeper than one step from a seed.
        if pool.len() < 200 {
            pool.push(input);
        }
    }
}
