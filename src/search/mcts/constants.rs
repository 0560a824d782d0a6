/// Every constant of the tree search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Weight of the unknown against the known in a choice. Syno's is above 5, so that rewards between 0 and 1 hardly count
    /// in a few hundred evaluations; of the problems in `examples/search_quality`, 1 is worse than 0.3 in words, the same in conv.
    pub exploration: f64,
    /// T visits reveal ⌊T^this⌋ children: below 1, because a node of the space has hundreds of them.
    pub widening: f64,
    /// So many rewards of its own weigh as much as all that is known of an action elsewhere.
    pub rave: f64,
    /// Share of chance in the order of revealing, so that an unlucky first reward is not the last word.
    pub shuffle: f64,
    /// What each evaluation in flight takes from a child's score, so that the next one looks elsewhere.
    pub virtual_loss: f64,
    /// Finals proposed by one rollout: 1, since finals of one place tell much the same.
    pub leaves: usize,
    /// New finals drawn from each of three sources for each one proposed: below the place that the tree chose, from the root,
    /// and from beginnings of good finals. The surrogate takes the most hopeful. Drawing costs milliseconds, evaluating
    /// minutes. With finals of conv drawn beforehand and ranked so, half as many were worse and three times as many no better.
    /// 1: the tree's place alone, unranked, as in Syno.
    pub draws: usize,
    /// How much an unsure guess counts for, in the choice of draws. 0 to 2 are much the same in conv.
    pub optimism: f64,
    /// Rewards in all at which half of the requests still draw from the root alone; their share is this over this and the
    /// rewards. The other sources are narrow, and a surrogate that has seen little praises what resembles its first finds:
    /// with 10, the front after 20 and 50 evaluations is worse.
    pub afresh: f64,
    /// A known final met again below an unvisited place counts again there, as in Syno. It is no news, and makes a place look
    /// better tried than it is; without, a new final is looked for.
    pub recount: bool,
    /// Rollouts of one request that may end without a new final, for requests must end.
    pub max_rollouts: usize,
    /// The share of draws that succeed is taken over this many: enough to tell a percent, few enough to follow the search.
    pub window: usize,
    /// Rounds of draws below a node before it counts as fruitless, while some draws succeed elsewhere. One is enough where
    /// a draw has several tries of its own; more rounds only lengthen the longest requests.
    pub retries: usize,
    /// Each round draws this many times more.
    pub growth: f64,
    /// Most draws of a round, and most while none succeeds anywhere: enough for three times `draws` where most succeed.
    pub max_draws: usize,
    /// An edge with more than so many rewards that spread less than `settled_std` has nothing left to tell.
    pub settled: u32,
    pub settled_std: f64,
    /// States looked at for a final before a fruitless node is hidden: small remainders are cleared up, large ones wait. What
    /// is found empty stays closed, so that a larger remainder is cleared up in several turns; a state costs 0.3 ms.
    pub probe: usize,
    /// States of one lattice; a larger one is credited along the canonical order only.
    pub max_lattice: usize,
    /// Nodes kept with their children, some 30 kB each; the least visited quarter is forgotten beyond, and read again when
    /// needed.
    pub max_nodes: usize,
}

impl Constants {
    /// The constants that Syno was published with; bounds that it lacks are our own.
    pub fn syno() -> Constants {
        Constants {
            exploration: 4.0 * std::f64::consts::SQRT_2,
            widening: 0.8,
            rave: 3.0,
            shuffle: 0.3,
            virtual_loss: 0.3,
            leaves: 1,
            draws: 1,
            optimism: 0.5,
            afresh: 0.0,
            recount: true,
            max_rollouts: 3000,
            window: 100,
            retries: 5,
            growth: 1.5,
            max_draws: 30_000,
            settled: 30,
            settled_std: 0.001,
            probe: 200,
            max_lattice: 256,
            max_nodes: 100_000,
        }
    }
}

impl Default for Constants {
    fn default() -> Constants {
        Constants {
            exploration: 0.3,
            draws: 16,
            afresh: 100.0,
            recount: false,
            max_rollouts: 300,
            retries: 1,
            max_draws: 64,
            probe: 100,
            max_nodes: 4_000,
            ..Constants::syno()
        }
    }
}
