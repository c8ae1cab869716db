/* gatehouse-model: the model commands as a program of their own, built without the gateway. */
#include "engine/engine.h"

int main(int argc, char **argv)
{
    return eng_cli_main(argc, argv);
}
