"""The 2019 example scripts, by their own flags, with conjure behind them."""
