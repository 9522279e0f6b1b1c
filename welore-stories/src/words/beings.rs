//! Words for people and animals.

/// People, and animals with names.
pub const PEOPLE: &str = "
girl | he=she | kind=girl | home=house | said=said
Lily / Mia / Anna / Sara / Emma / Lucy / Zoe / Ruby / Ella / Nora / Molly / Grace
Amy / Rosa / Kate / Maya / Ivy / Clara / Daisy / Hannah / Alice / Tina / Julia / Wendy
Eva / Ada / Iris / Leah / Priya / Yuki / Fatima / Ingrid / Carmen / Aisha / Tess / Matilda

boy | he=he | kind=boy | home=house | said=said
Tom / Ben / Max / Sam / Tim / Jack / Leo / Noah / Finn / Oliver / Peter / Henry
Adam / Luke / Oscar / Charlie / Daniel / Felix / Hugo / Theo / Omar / Ravi / Kenji / Diego
Ivan / Emil / Jonas / Arthur / Walter / Simon / Toby / Victor / Elias / Kofi / Marco / Otto

critter | he | kind | home | said
Bruno | he | bear | cave | growled
Pip | he | mouse | hole | squeaked
Rusty | he | fox | den | yelped
Hazel | she | squirrel | hollow tree | chattered
Flopsy | she | rabbit | burrow | mumbled
Hoot | he | owl | old oak | hooted
Waddles | he | duck | nest | quacked
Spike | he | hedgehog | heap of leaves | snuffled
Bella | she | lamb | barn | bleated
Freckles | he | frog | pond | croaked
Honey | she | bee | hive | buzzed
Shelly | she | turtle | hollow log | whispered
Stripes | he | badger | tunnel | grunted
Patch | he | puppy | kennel | barked
Whiskers | she | cat | basket | purred
Duke | he | pony | stable | snorted
Coco | she | monkey | fig tree | giggled
Willow | she | deer | thicket | murmured
Bandit | he | raccoon | attic | muttered
Dot | she | ladybug | flower bed | hummed
Splash | he | otter | riverbank | chirped
Penny | she | penguin | igloo | squawked
Ringo | he | rooster | coop | crowed
Ellie | she | elephant | grove | trumpeted

elder | he | kin | said=said
Mom | she | mom
Dad | he | dad
Grandma | she | grandma
Grandpa | he | grandpa
Aunt Rose | she | aunt
Uncle Joe | he | uncle
Aunt May | she | aunt
Uncle Bill | he | uncle
Nana | she | nana

job | said=said | he | shop | do | did | tool | pay | woe
the baker | he | bakery | knead the dough | kneaded the dough | rolling pin | a warm roll | the oven had gone cold
the farmer | she | barn | feed the hens | fed the hens | bucket | six fresh eggs | the hens had run away
the gardener | he | greenhouse | water the roses | watered the roses | watering can | a red rose | the leaves had turned brown
the fisherman | he | cabin | mend the nets | mended the nets | needle | a silver fish | there was a big hole in his net
the tailor | she | workshop | sort the buttons | sorted the buttons | scissors | a velvet bow | the buttons had rolled everywhere
the painter | he | studio | wash the brushes | washed the brushes | ladder | a tiny picture | a whole can of paint had tipped over
the postman | he | post office | carry the letters | carried the letters | mailbag | a foreign stamp | his bag was far too heavy
the carpenter | she | workshop | sweep the sawdust | swept the sawdust | saw | a carved bird | the boards were all mixed up
the librarian | she | library | dust the shelves | dusted the shelves | cart | a picture book | a shelf of books had fallen down
the doctor | he | clinic | roll the bandages | rolled the bandages | lamp | a jar of honey drops | the waiting room was full
the shepherd | she | hut | count the sheep | counted the sheep | crook | a ball of wool | two sheep were missing
the milkman | he | dairy | load the bottles | loaded the bottles | crate | a cup of cream | his cart had lost a wheel
the blacksmith | he | forge | pump the bellows | pumped the bellows | hammer | a lucky horseshoe | the fire had almost gone out
the beekeeper | she | orchard | fill the jars | filled the jars | ladle | a jar of honey | there were not enough clean jars
the miller | he | mill | tie up the sacks | tied up the sacks | rope | a bag of flour | the sacks had burst open
the potter | she | pottery | carry the clay | carried the clay | wheel | a little clay cup | the rain had soaked the clay
the clockmaker | he | shop | polish the gears | polished the gears | tweezers | an old brass watch | every clock showed a different time
the toymaker | she | attic | glue the wheels | glued the wheels | brush | a wooden whistle | fifty toys had to be ready by noon
the sailor | he | boathouse | scrub the deck | scrubbed the deck | mop | a spotted seashell | the deck was covered with seaweed
the cook | she | kitchen | peel the potatoes | peeled the potatoes | knife | a bowl of pudding | a hundred guests were coming for supper
";

/// Animals without names.
pub const ANIMALS: &str = "
animal | he | sound | cried | home | eats | came
the dog | he | woof | barked | the yard | bones | trotted
the cat | she | meow | meowed | the barn | fish | crept
the duck | she | quack | quacked | the pond | water weeds | waddled
the owl | he | hoot | hooted | the old oak | beetles | glided
the frog | he | croak | croaked | the pond | flies | hopped
the cow | she | moo | mooed | the pasture | grass | plodded
the horse | he | neigh | neighed | the stable | hay | galloped
the sheep | she | baa | bleated | the fold | clover | wandered
the pig | she | oink | grunted | the sty | turnips | shuffled
the hen | she | cluck | clucked | the coop | corn | strutted
the mouse | she | squeak | squeaked | a hole in the wall | cheese | scurried
the goose | she | honk | honked | the lake | barley | marched
the crow | he | caw | cawed | the pine tree | worms | flapped
the donkey | he | hee-haw | brayed | the shed | carrots | ambled
the rooster | he | cock-a-doodle-doo | crowed | the henhouse | seeds | strutted
the bee | she | buzz | buzzed | the hive | nectar | zoomed
the goat | he | maa | bleated | the hillside | thistles | climbed
the cricket | he | chirp | chirped | the tall grass | leaves | leaped
the pigeon | she | coo | cooed | the tower | crumbs | fluttered
the turkey | he | gobble | gobbled | the farmyard | acorns | tottered
the woodpecker | he | tap-tap-tap | pecked | the birch tree | ants | swooped
the parrot | she | squawk | squawked | a golden cage | sunflower seeds | sailed
the snake | he | hiss | hissed | the warm rocks | eggs | slithered
the wolf | he | awoo | howled | the dark woods | meat | prowled
the lion | he | roar | roared | the dry plain | meat | stalked
the elephant | she | toot | trumpeted | the jungle | bananas | stomped
the seal | he | arf-arf | barked | the rocky shore | herrings | slid
the monkey | she | ooh-ooh | screeched | the treetops | mangoes | swung

baby | mother | sound | home | eats | coat
puppy | the dog | yip | kennel | meat scraps | brown fur
kitten | the cat | mew | barn | warm milk | gray fur
duckling | the duck | peep | pond | bread crumbs | yellow down
lamb | the ewe | baa | sheepfold | clover | curly wool
bunny | the rabbit | thump | burrow | lettuce | white fur
chick | the hen | cheep | coop | corn | golden fluff
piglet | the sow | oink | sty | turnips | pink skin
foal | the mare | whinny | stable | oats | a silky mane
calf | the cow | moo | pasture | sweet hay | spotted skin
fox cub | the vixen | yap | den | berries | red fur
bear cub | the bear | grr | cave | honey | thick fur
owlet | the owl | hoo | hollow oak | beetles | speckled feathers
gosling | the goose | honk | lake | barley | soft down
fawn | the doe | bleat | thicket | green leaves | white spots
squirrel kit | the squirrel | chirr | pine tree | hazelnuts | a bushy tail
swallow chick | the swallow | tweet | nest under the roof | gnats | dark feathers

beast | he | trait
the lion | he | proud
the bear | he | grumpy
the elephant | she | mighty
the wolf | he | fierce
the tiger | she | haughty
the horse | he | swift
the moose | he | clumsy
the bull | he | stubborn
the eagle | she | majestic
the stag | he | noble

mite | he | saved
the mouse | she | gnawed through the ropes
the bat | he | bit the knots apart
the sparrow | she | pecked at the cords until they snapped
the hedgehog | he | cut the strings with his sharp spines
the ant | she | called a thousand sisters, and together they chewed through every cord
the beetle | he | snipped the threads with his strong jaws
the mole | he | dug a tunnel under the net
the lizard | she | slipped inside and untied the loops
the hamster | he | nibbled at the twine for an hour
the robin | she | picked the tangle open with her beak

mischief | he | cried
the puppy | he | barked
the kitten | she | mewed
the magpie | she | chattered
the squirrel | he | chirred
the goat | he | bleated
the raccoon | he | rustled in the leaves
the jackdaw | he | cawed
the monkey | she | shrieked
the otter | he | whistled
the ferret | she | hissed
";
