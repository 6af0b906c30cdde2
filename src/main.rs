//! bin
use arc_swap::ArcSwap;
use sidebolt::config::{Config, Sources};
use std::sync::Arc;
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let loaded = match Config::load(&Sources { file: std::env::args().skip_while(|a| a != "--config").nth(1).map(Into::into), ..Sources::default() }.with_process_environment()) {
            Ok(l) => l,
            Err(e) => {
                eprintln!("{e}");
                std::process::exit(2)
            }
        };
        let _log = sidebolt::logging::init(&loaded.config.log);
        let app = sidebolt::app::App::start(Arc::new(ArcSwap::from_pointee(loaded.config))).await?;
        println!("listening bolt {}", app.bolt_address());
        if let Some(a) = app.admin_address() {
            println!("listening admin {a}");
        }
        tokio::signal::ctrl_c().await?;
        app.drain().await;
        Ok(())
    })
}
