//! `loadtest compare`.

use std::path::PathBuf;

use clap::Args;

use super::print;
use crate::bench::{Comparison, Report};
use crate::error::Error;

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// A saved run.
    a: PathBuf,
    /// The run to compare with it; it may be the same file, with `--brokers`.
    b: PathBuf,
    /// A broker of A and one of B; otherwise brokers of the same name are compared.
    #[arg(long, value_name = "ONE,OTHER", value_delimiter = ',', num_args = 1)]
    brokers: Vec<String>,
    /// It is an error if a workload surely costs more than so many times the CPU time that it did in A.
    #[arg(long, value_name = "RATIO")]
    max_cpu: Option<f64>,
}

pub(super) fn run(args: &CompareArgs) -> Result<(), Error> {
    let brokers = match &args.brokers[..] {
        [] => None,
        [one, other] => Some((&**one, &**other)),
        others => {
            return Err(Error::Option(format!(
                "--brokers takes one broker of A and one of B, not {}",
                others.len()
            )));
        }
    };
    let (a, b) = (Report::open(&args.a)?, Report::open(&args.b)?);
    let comparison = Comparison::of(&a, &b, brokers)?;
    print(&comparison.to_string())?;
    args.max_cpu.map_or(Ok(()), |limit| comparison.check(limit))
}
