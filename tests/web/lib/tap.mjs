// TAP output for node, the twin of tests/tap.h: a case is a named function, an exception fails it, skip() skips it.

class Skip extends Error {}

export function skip(reason) {
  throw new Skip(reason);
}

// Runs the cases in order; sets the exit status, and returns how many failed. `omitSkipped`: a case that skips itself is no case of
// this run at all (the plan, printed last, counts the others).
export async function run(cases, { omitSkipped = false } = {}) {
  console.log('TAP version 13');
  let failed = 0;
  let i = 0;
  for (const [name, body] of cases) {
    try {
      await body();
      console.log(`ok ${++i} - ${name}`);
    } catch (error) {
      if (error instanceof Skip) {
        if (!omitSkipped)
          console.log(`ok ${++i} - ${name} # SKIP ${error.message}`);
        continue;
      }
      failed++;
      i++;
      for (const line of String(error.stack ?? error).split('\n').slice(0, 30))
        console.log(`# ${line}`);
      console.log(`not ok ${i} - ${name}`);
    }
  }
  console.log(`1..${i}`);
  process.exitCode = failed ? 1 : 0;
  return failed;
}
