//! The program: reads the command line and does what it says.

use std::process::ExitCode;

use sidebolt::cli::{self, Command};
use sidebolt::{advise, report, run, top};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match cli::parse() {
        Command::Check(args) => cli::check(&args, run::try_upstream),
        Command::Schema(args) => cli::schema(&args),
        Command::Run(args) => run::on_runtime(run::run(&args)),
        Command::Demo(args) => run::on_runtime(run::demo(&args)),
        Command::Top(args) => run::on_runtime(async move { top::top(&args).await }),
        Command::Report(args) => run::on_runtime(async move { report::report(&args).await }),
        Command::Advise(args) => run::on_runtime(async move { advise::advise(&args).await }),
        Command::Invalidate(args) => run::on_runtime(async move { cli::invalidate(&args).await }),
        Command::Healthcheck(args) => run::on_runtime(async move { cli::healthcheck(&args).await }),
    }
}
