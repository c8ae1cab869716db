// TAP output for node, the twin of tests/tap.h: a case is a named function, an exception fails it, skip() skips it.

class Skip extends Error {}

export function skip(reason) {
  throw new Skip(reason);
}

// Runs the cases in order; sets the exit status, and returns how many failed.
export async function run(cases) {
  console.log(`TAP version 13\n1..${cases.length}`);
  let failed = 0;
  for (const [i, [name, body]] of cases.entries()) {
    try {
      await body();
      console.log(`ok ${i + 1} - ${name}`);
    } catch (error) {
      if (error instanceof Skip) {
        console.log(`ok ${i + 1} - ${name} # SKIP ${error.message}`);
        continue;
      }
      failed++;
      for (const line of String(error.stack ?? error).split('\n').slice(0, 30))
        console.log(`# ${line}`);
      console.log(`not ok ${i + 1} - ${name}`);
    }
  }
  process.exitCode = failed ? 1 : 0;
  return failed;
}
