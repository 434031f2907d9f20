//! The library's policy, from options.

use clap::Args;
use sealed_mmap::{SealPolicy, Seals};

use crate::text;

/// What is required of a file, beyond what its state requires.
#[derive(Args)]
#[command(next_help_heading = "Policy")]
pub(crate) struct Policy {
    /// Require these seals as well.
    #[arg(long, value_name = "SEALS", value_delimiter = ',', value_parser = parse_seal)]
    require: Vec<Seals>,
    /// Refuse files that carry any of these seals.
    #[arg(long, value_name = "SEALS", value_delimiter = ',', value_parser = parse_seal)]
    forbid: Vec<Seals>,
    /// Refuse files that are longer, such as 64M.
    #[arg(long, value_name = "SIZE", value_parser = text::parse_size)]
    max_len: Option<u64>,
    /// Refuse files that do not belong to this user id.
    #[arg(long, value_name = "UID")]
    owner: Option<u32>,
    /// Accept files made of hugetlb pages.
    #[arg(long)]
    allow_hugetlb: bool,
}

impl Policy {
    pub(crate) fn to_seal_policy(&self) -> SealPolicy {
        let union = |seals: &[Seals]| seals.iter().copied().collect::<Seals>();
        let mut policy = SealPolicy::new()
            .require(union(&self.require))
            .forbid(union(&self.forbid))
            .allow_hugetlb(self.allow_hugetlb);
        if let Some(len) = self.max_len {
            policy = policy.len(..=len);
        }
        if let Some(uid) = self.owner {
            policy = policy.owner(uid);
        }
        policy
    }
}

fn parse_seal(name: &str) -> Result<Seals, String> {
    let found = Seals::from_name(&name.to_ascii_uppercase().replace('-', "_"));
    found.ok_or_else(|| {
        let names: Vec<_> = Seals::all().iter().map(|seal| seal.to_string()).collect();
        format!("the seals are {}", names.join(", "))
    })
}
