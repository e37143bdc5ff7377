//! Charts, pages and tables that show results to users.

pub mod charts;
pub mod html;
pub mod results;
pub mod training_log;
