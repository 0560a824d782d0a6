//! What the proposer was asked and told, kept in the store: a study that goes on asks again and tells again, and is the same
//! in all respects, random numbers included.

use super::tree::FinalId;
use super::*;

/// One thing that happened to the proposer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Event {
    /// Its answer, and whether it went into the pool.
    Asked {
        id: Option<FinalId>,
        kept: bool,
    },
    Refused {
        id: FinalId,
    },
    /// The rewards' bits, since text may round.
    Told {
        rewards: Vec<(FinalId, u64)>,
    },
}

fn key(n: u64) -> String {
    format!("proposer {n:08}")
}

impl Study<'_> {
    fn note(&mut self, event: &Event) -> Result<()> {
        self.store.save_fact(&key(self.n_events), event)?;
        self.n_events += 1;
        Ok(())
    }

    /// The proposer's next operator, if `judge` makes a proposal of it.
    pub(super) fn ask(&mut self, judge: impl FnOnce(&mut Self, &Operator) -> Result<Option<Asked>>) -> Result<Option<Operator>> {
        let Some(operator) = self.proposer.ask() else {
            self.note(&Event::Asked { id: None, kept: false })?;
            return Ok(None);
        };
        let asked = judge(self, &operator)?;
        self.note(&Event::Asked { id: Some(Operators::id_of(&operator)), kept: asked.is_some() })?;
        match asked {
            Some(asked) => self.pool.push(asked),
            None => self.refuse(&operator)?,
        }
        Ok(Some(operator))
    }

    pub(super) fn refuse(&mut self, operator: &Operator) -> Result<()> {
        let id = Operators::id_of(operator);
        self.proposer.refuse(operator);
        self.refused.insert(id);
        self.note(&Event::Refused { id })
    }

    /// Tells the proposer rewards; nothing where they are the last ones.
    pub(super) fn tell(&mut self, rewards: BTreeMap<FinalId, f64>) -> Result<()> {
        if rewards == self.told {
            return Ok(());
        }
        self.proposer.tell(&rewards);
        self.note(&Event::Told { rewards: rewards.iter().map(|(&id, r)| (id, r.to_bits())).collect() })?;
        self.told = rewards;
        Ok(())
    }

    /// Repeats all that earlier sessions asked and told.
    pub(super) fn replay(&mut self) -> Result<()> {
        let mut events = Vec::new();
        while let Some(event) = self.store.fact::<Event>(&key(events.len() as u64))? {
            events.push(event);
        }
        self.n_events = events.len() as u64;
        self.refused = events.iter().filter_map(|e| if let Event::Refused { id } = e { Some(*id) } else { None }).collect();
        let baseline = self.store.baseline()?;
        let mut known: BTreeMap<FinalId, Operator> = BTreeMap::new();
        for event in events {
            match event {
                Event::Asked { kept, .. } => {
                    let Some(operator) = self.proposer.ask() else { continue };
                    let id = Operators::id_of(&operator);
                    if kept && !self.refused.contains(&id) {
                        self.pool.extend(self.within_budget(&operator, &baseline)?);
                    }
                    known.insert(id, operator);
                }
                Event::Refused { id } => known.get(&id).into_iter().for_each(|operator| self.proposer.refuse(operator)),
                Event::Told { rewards } => {
                    self.told = rewards.into_iter().map(|(id, bits)| (id, f64::from_bits(bits))).collect();
                    self.proposer.tell(&self.told);
                }
            }
        }
        // counted when they happened
        self.proposer.take_refused();
        Ok(())
    }
}
