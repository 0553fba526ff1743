# Included by llama-cpp-python's own CMakeLists: its Python binding needs llama.cpp's library, not the server's
# utilities beside it, which take two thirds of the time to compile.
set(LLAMA_BUILD_COMMON OFF)
